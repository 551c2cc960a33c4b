"""Progress: whether a connection that looks alive still brings messages, and whether its calls still end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from time import monotonic

from qbridge.calls import CANCEL_PATIENCE, any_within, call_within
from qbridge.claiming import Claiming
from qbridge.errors import SourceUnavailable
from qbridge.source import QueueSource, QueueStats

__all__ = ["Progress", "SourceStalledError"]

log = logging.getLogger(__name__)

#: The most seconds between two looks at what is under way: calls have far more time than that.
TICK = 5.0

#: The most seconds between the two counts that show a stall: a message that others take is gone by then.
_RECOUNT = 5.0


class SourceStalledError(SourceUnavailable):
    """Messages are ready, there is room for them, and none arrives.

    Args:
        queue: The queue's name.
        ready: How many messages are ready.
        seconds: For how long nothing has arrived.
    """

    def __init__(self, queue: str, ready: int, seconds: float) -> None:
        super().__init__(f"queue {queue!r}: nothing has arrived for {seconds:.0f} s, though {ready} messages are ready")
        self.ready = ready
        self.seconds = seconds


class Progress:
    """Watches one connection. Belongs to the main thread's loop.

    Args:
        queue: The queue's name.
        source: The source, open.
        claiming: What claims from it.
        stalled_after: Seconds of nothing, with room for messages, after which they are counted; None never counts.
        due: Calls under way, and the monotonic seconds by which they must have returned or be cancelled.
        broken: Set when the connection is lost, which ends this.
        call_timeout: Seconds that a count may take.
    """

    def __init__(
        self,
        queue: str,
        source: QueueSource,
        claiming: Claiming,
        *,
        stalled_after: float | None,
        due: Mapping[str, float],
        broken: asyncio.Event,
        call_timeout: float,
    ) -> None:
        self._queue = queue
        self._source = source
        self._claiming = claiming
        self._stalled_after = stalled_after
        self._due = due
        self._broken = broken
        self._call_timeout = call_timeout

    async def run(self) -> None:
        """Watch until the connection is lost.

        Raises:
            SourceStalledError: Messages are ready and none arrives.
            SourceUnavailable: A call ignores that it was cancelled, or the connection was lost while counting.
        """
        tick = TICK if self._stalled_after is None else min(TICK, self._stalled_after / 2)
        while not await any_within(tick, self._broken):
            now = monotonic()
            for call, due in self._due.items():
                if now > due + CANCEL_PATIENCE:
                    raise SourceUnavailable(
                        f"queue {self._queue!r}: {type(self._source).__qualname__}.{call} neither returned in time nor "
                        "let itself be cancelled, it is left behind"
                    )
            if self._stalled_after is not None and self._claiming.idle_for >= self._stalled_after:
                await self._look_for_a_stall(min(_RECOUNT, self._stalled_after))

    async def _look_for_a_stall(self, pause: float) -> None:
        """Count twice. Several workers may share the queue: a message that was ready just now may be theirs by now."""
        claims, idle_for = self._claiming.claims, self._claiming.idle_for
        counted_at = monotonic()
        stats = await self._count()
        if stats is None or not stats.ready:
            self._claiming.forget_idleness()
            return
        if await any_within(pause, self._broken):
            return
        stats = await self._count()
        between = monotonic() - counted_at
        # A source that was not asked all the while, for lack of room, had no chance to bring anything.
        was_asked = self._claiming.claims == claims and self._claiming.idle_for - idle_for >= between / 2
        is_old = stats is not None and (stats.oldest_age is None or stats.oldest_age >= pause * 0.9)
        if stats is None or not stats.ready or not is_old or not was_asked:
            self._claiming.forget_idleness()
            return
        raise SourceStalledError(self._queue, stats.ready, self._claiming.idle_for)

    async def _count(self) -> QueueStats | None:
        """Return what is in the queue; None if that can't be told, and then never ask again."""
        try:
            return await call_within(self._call_timeout, self._source.stats())
        except (SourceUnavailable, TimeoutError):
            raise  # the connection is lost
        except Exception as exc:  # noqa: BLE001  # counting is the watch's own wish: what can't count may still work
            log.warning(
                "messages can't be counted, a stall would not be seen",
                extra={"queue": self._queue, "error": str(exc) or repr(exc)},
            )
            self._stalled_after = None
            return None
