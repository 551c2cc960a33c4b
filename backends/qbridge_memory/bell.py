"""Bell: how one thread ends the pause of a receive that waits on another thread's event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["Bell"]


class Bell:
    """Ends one waiting receive; may be rung from any thread, any number of times.

    Made on the event loop of the receive that waits for it.
    """

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def ring(self) -> None:
        """End the wait."""
        # A loop that was closed under its waiting receive has nobody left to wake.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)

    async def wait(self, timeout: float) -> None:
        """Return when it is rung, or after `timeout` seconds. Called once."""
        timer = self._loop.call_later(timeout, self._end)
        try:
            await self._future
        finally:
            timer.cancel()

    def _end(self) -> None:
        if not self._future.done():
            self._future.set_result(None)
