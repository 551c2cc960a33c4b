"""Steps that the Redis tests share: make messages, claim until there are enough, look at the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from qbridge import Delivery, Outgoing
from qbridge_redis import RedisSource
from tests.support.redis_server import RedisServer

__all__ = ["bodies", "calls", "outgoing", "receive_all", "until"]


def outgoing(*bodies: bytes, delay: float = 0.0) -> list[Outgoing]:
    """Messages with these bodies."""
    return [Outgoing(body=body, message_id=str(number), delay=delay) for number, body in enumerate(bodies)]


async def receive_all(source: RedisSource, count: int) -> list[Delivery]:
    """Claim until there are `count`, for at most 10 s."""
    deliveries: list[Delivery] = []
    deadline = time.monotonic() + 10
    while len(deliveries) < count and time.monotonic() < deadline:
        deliveries += await source.receive(count - len(deliveries), 1)
    return deliveries


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something outside is so, for at most 10 s."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110  # another process can't set an event
            await asyncio.sleep(0.02)


def calls(server: RedisServer) -> dict[str, int]:
    """How often the server has run each command since its start or CONFIG RESETSTAT."""
    stats = server.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(text.split(",")[0].split("=")[1]) for name, text in stats.items()}


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    """The bodies of deliveries, in order."""
    return [delivery.body for delivery in deliveries]
