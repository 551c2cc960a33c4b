"""What the tests of blocking sources share: sources, a gate that holds calls, and waiting with a limit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from qbridge import Delivery, Outgoing
from qbridge_memory import MemoryBroker, MemoryOptions
from tests.support.blocking_memory import BlockingMemorySource, WakeableMemorySource

__all__ = ["SOON", "Gate", "looking", "message", "receiving", "soon", "threads", "waking"]

T = TypeVar("T")

#: Seconds that anything may take that must not wait for anything.
SOON = 5.0


class Gate:
    """Holds the calls of one name until it is opened; given as a source's `before`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, name: str) -> None:
        if name == self._name:
            self._reached.set()
            assert self._open.wait(20), "the gate was never opened"

    async def reached(self) -> None:
        """Return when a call is held."""
        assert await asyncio.to_thread(self._reached.wait, SOON)

    def open(self) -> None:
        """Let all calls through."""
        self._open.set()


def looking(broker: MemoryBroker) -> BlockingMemorySource:
    """Return a source that looks, and not again by itself during a test."""
    source = BlockingMemorySource("q", MemoryOptions(lease=60), broker=broker)
    source.poll_interval = 30.0
    return source


def waking(broker: MemoryBroker) -> WakeableMemorySource:
    """Return a source that blocks, longer than a test takes."""
    source = WakeableMemorySource("q", MemoryOptions(lease=60), broker=broker)
    source.longest_wait = 30.0
    return source


async def soon(awaitable: Awaitable[T]) -> T:
    """Await what must take no time."""
    async with asyncio.timeout(SOON):
        return await awaitable


async def receiving(source: BlockingMemorySource) -> asyncio.Task[Sequence[Delivery]]:
    """Return a receive that waits."""
    task = asyncio.ensure_future(source.receive(10, 30))
    await asyncio.wait([task], timeout=0.1)
    assert not task.done()
    return task


def message(body: bytes = b"body") -> Outgoing:
    """Return a message to send."""
    return Outgoing(body=body, message_id="m")


def threads() -> list[threading.Thread]:
    """Return the threads of open sources."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("qbridge-")]
