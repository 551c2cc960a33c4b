"""The claims of one connection: when a source is asked for messages, how long it may take, and what it looks like."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from qbridge.calls import any_within
from qbridge.source import Delivery, QueueSource

__all__ = ["Claiming"]

log = logging.getLogger(__name__)

#: Messages claimed in one call. Above 500 a Redis script only blocks the server longer.
MAX_CLAIM = 500

#: The share of its wait that a receive which finds nothing has at least waited.
_WAITED = 0.5

#: Receives in a row that may come back early with nothing: another worker may have been faster.
_EARLY_ALLOWED = 3

#: Seconds of the first and the longest pause before a source that doesn't wait is asked again.
_PAUSE_BASE, _PAUSE_CAP = 0.01, 1.0

#: Receives in a row that came back early, after which the log tells of it.
_EARLY_TOLD = 10


class Claiming:
    """Asks one source for messages while one connection lasts. Belongs to the main thread's loop.

    Args:
        queue: The queue's name.
        source: The source, open.
        claimable: Waits for room; returns how many messages to claim, and the seconds to wait for the first.
        accept: Takes what was claimed, which may be nothing.
        give_back: Takes what a receive brings after this connection was given up.
        has_room: Set while the broker keeps up with the settling.
        stopping: Set when nothing more is to be claimed.
        broken: Set when the connection is lost.
        due: Calls under way, and when they must be over; shared with whoever watches them.
        margin: Seconds beyond its own wait after which a receive that doesn't return is given up.
        does_not_wait: Whether the log tells already that this source doesn't wait for messages.
    """

    def __init__(
        self,
        queue: str,
        source: QueueSource,
        *,
        claimable: Callable[[], Awaitable[tuple[int, float]]],
        accept: Callable[[Sequence[Delivery]], None],
        give_back: Callable[[Sequence[Delivery]], None],
        has_room: asyncio.Event,
        stopping: asyncio.Event,
        broken: asyncio.Event,
        due: dict[str, float],
        margin: float,
        does_not_wait: bool = False,
    ) -> None:
        self._queue = queue
        self._source = source
        self._claimable = claimable
        self._accept = accept
        self._give_back = give_back
        self._has_room = has_room
        self._stopping = stopping
        self._broken = broken
        self._due = due
        self._margin = margin
        #: Held while a receive runs.
        self.receiving = asyncio.Lock()
        #: How many claims have brought something.
        self.claims = 0
        #: Whether the source was found not to wait for messages, and the log tells of it.
        self.does_not_wait = does_not_wait
        #: Set when this connection was given up while a receive hung.
        self.is_given_up = False
        self._asked_since: float | None = None
        self._idle = 0.0
        self._early = 0

    @property
    def idle_for(self) -> float:
        """Seconds that the source was asked for messages, with room for them, since it last brought one."""
        return self._idle + (0.0 if self._asked_since is None else monotonic() - self._asked_since)

    def forget_idleness(self) -> None:
        """Count `idle_for` from here on."""
        self._idle = 0.0
        if self._asked_since is not None:
            self._asked_since = monotonic()

    async def run(self, finishing: asyncio.Event) -> None:
        """Claim until nothing more is to be claimed; return when `finishing` is set, or the connection is lost."""
        while not self._stopping.is_set() and not self._broken.is_set():
            if not self._has_room.is_set():
                await any_within(None, self._has_room, self._stopping, self._broken)
                continue
            limit, wait = await self._claimable()
            if limit < 1 or self._stopping.is_set() or self._broken.is_set():
                self._accept(())  # gives the unused credit back
                await asyncio.sleep(0)  # whoever answers 0 at once must not keep all others from running
                continue
            began = self._asked_since = monotonic()
            found = await self._receive(min(limit, MAX_CLAIM), wait)
            if found:
                self.claims += 1
                self._idle, self._early = 0.0, 0
            else:
                await self._keep_pace(wait, monotonic() - began)
                self._idle += monotonic() - began
            self._asked_since = None
            if self._early >= _EARLY_TOLD and not self.does_not_wait:
                self.does_not_wait = True
                log.warning(
                    "the backend doesn't wait for messages as it should, it is asked less often",
                    extra={"queue": self._queue, "source": type(self._source).__qualname__},
                )
        # Settling and renewing go on until all is settled or the connection is lost.
        await any_within(None, finishing, self._broken)

    async def _receive(self, limit: int, wait: float) -> bool:
        deliveries: Sequence[Delivery] = ()
        self._due["receive"] = monotonic() + wait + self._margin
        try:
            async with self.receiving, asyncio.timeout(wait + self._margin):
                deliveries = await self._source.receive(limit, wait)
        finally:
            self._due.pop("receive", None)
            if self.is_given_up:
                self._give_back(deliveries)
            else:
                self._accept(deliveries)
        return bool(deliveries)

    async def _keep_pace(self, wait: float, took: float) -> None:
        """Pause after a receive that found nothing and did not wait for it: a loop of these would spin."""
        if wait <= 0 or took >= wait * _WAITED or self._stopping.is_set() or self._broken.is_set():
            self._early = 0
            return
        self._early += 1
        if self._early > _EARLY_ALLOWED:
            pause = min(_PAUSE_CAP, _PAUSE_BASE * 2.0 ** min(self._early - _EARLY_ALLOWED - 1, 16))
            await any_within(pause, self._stopping, self._broken)
