"""Steps that the RabbitMQ tests share: make messages, claim until there are enough."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from qbridge import Delivery, Outgoing
from qbridge_rabbitmq import RabbitSource
from tests.support.waiting import PATIENCE

__all__ = ["claim", "outgoing", "promptly", "until"]

ResultT = TypeVar("ResultT")


def outgoing(*bodies: bytes, delay: float = 0.0) -> list[Outgoing]:
    """Messages with these bodies."""
    return [Outgoing(body=body, message_id=uuid.uuid4().hex, delay=delay) for body in bodies]


async def claim(source: RabbitSource, count: int) -> list[Delivery]:
    """Receive until there are `count`; fail if nothing comes any more."""
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        received = await source.receive(count - len(deliveries), PATIENCE)
        assert received, f"{len(deliveries)} of {count} messages were delivered"
        deliveries += received
    return deliveries


async def promptly(awaitable: Awaitable[ResultT], seconds: float = PATIENCE) -> ResultT:
    """Await something that must not take longer than that."""
    async with asyncio.timeout(seconds):
        return await awaitable


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the broker says that something is so."""
    async with asyncio.timeout(PATIENCE):
        while not await is_so():  # noqa: ASYNC110  # the broker can't set an event
            await asyncio.sleep(0.02)
