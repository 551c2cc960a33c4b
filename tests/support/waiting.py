"""How tests wait: for a switch that any thread may turn, or until something is true; always with a deadline."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

__all__ = ["PATIENCE", "Latch", "Watch", "poll"]

#: Seconds after which a test that waits has failed; far more than a busy machine needs.
PATIENCE = 20.0


class Latch:
    """A switch that is turned once. Coroutines of any event loop may wait for it, and threads too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turned = threading.Event()
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_set(self) -> bool:
        """Whether it was turned."""
        return self._turned.is_set()

    def set(self) -> None:
        """Turn it, from any thread."""
        with self._lock:
            self._turned.set()
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            with suppress(RuntimeError):  # its loop was closed
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)

    async def wait(self, timeout: float = PATIENCE) -> None:
        """Wait for it on the running loop.

        Raises:
            TimeoutError: It was not turned in time.
        """
        with self._lock:
            if self._turned.is_set():
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
        async with asyncio.timeout(timeout):
            await waiter

    def block(self, timeout: float = PATIENCE) -> None:
        """Wait for it in this thread, whatever else should run here.

        Raises:
            TimeoutError: It was not turned in time.
        """
        if not self._turned.wait(timeout):
            raise TimeoutError("nobody turned the latch")


class Watch:
    """Lets a test wait until something is true; looks again whenever `changed` is called. Belongs to one loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def changed(self) -> None:
        """Let those who wait look again."""
        self._event.set()

    async def until(self, predicate: Callable[[], object], timeout: float = PATIENCE) -> None:
        """Wait until `predicate()` is true.

        Raises:
            TimeoutError: It did not become true in time.
        """
        async with asyncio.timeout(timeout):
            while not predicate():
                self._event.clear()
                await self._event.wait()


async def poll(predicate: Callable[[], object], timeout: float = PATIENCE) -> None:
    """Look again and again until `predicate()` is true, where nothing tells of the change.

    Raises:
        TimeoutError: It did not become true in time.
    """
    async with asyncio.timeout(timeout):
        while not predicate():  # noqa: ASYNC110  # what is asked has no event
            await asyncio.sleep(0.001)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
