"""Outages: what the log and the listeners hear of a source that is lost and comes back."""

from __future__ import annotations

import logging
import math
from time import monotonic

from qbridge.errors import SourceError
from qbridge.event_hub import EventHub
from qbridge.progress import SourceStalledError

__all__ = ["Outages"]

log = logging.getLogger("qbridge.intake")

#: Seconds that a source must have been well, or an outage last, for a loss to have a line of its own.
LASTING = 15.0


class Outages:
    """Tells of one source's outages, without filling the log. Belongs to the main thread's loop.

    Args:
        queue: The queue's name.
        events: Where losses and returns are told.
    """

    def __init__(self, queue: str, events: EventHub) -> None:
        self._queue = queue
        self._events = events
        self._lost_at: float | None = None  # when the outage began, if there is one
        self._is_told = False  # whether the log tells of that outage
        self._back_at = -math.inf  # when the latest outage ended
        self._was_ready = False

    def tell_lost(self, exc: Exception, *, delay: float) -> None:
        """Tell that the source is lost.

        Args:
            exc: What it was lost by.
            delay: Seconds until it is opened again.
        """
        if self._lost_at is None:
            self._lost_at = monotonic()
        stall = exc if isinstance(exc, SourceStalledError) else None
        is_mute_timeout = isinstance(exc, TimeoutError) and not str(exc)
        error = "a call to the broker did not return in time" if is_mute_timeout else str(exc) or repr(exc)
        # One line for a loss, however long it lasts. One that follows soon upon another has a line only if it lasts.
        was_well = self._lost_at - self._back_at > LASTING
        if not self._is_told and (stall or was_well or monotonic() - self._lost_at > LASTING):
            self._is_told = True
            unexpected = None if isinstance(exc, (SourceError, TimeoutError)) else exc
            log.warning(
                "source stalled, reconnecting" if stall else "source lost, reconnecting",
                extra={"queue": self._queue, "error": error},
                exc_info=unexpected,
            )
        if self._events.active:
            from qbridge.events import SourceLost, SourceStalled

            if stall:
                self._events.emit(SourceStalled(queue=self._queue, ready=stall.ready, idle=stall.seconds))
            self._events.emit(SourceLost(queue=self._queue, error=error, delay=delay))

    def tell_ready(self) -> None:
        """Tell that the source is open."""
        outage = 0.0
        if self._lost_at is not None:
            self._back_at = monotonic()
            outage = self._back_at - self._lost_at
        if self._is_told:
            log.info("source is back", extra={"queue": self._queue, "outage": round(outage, 3)})
        elif not self._was_ready:
            log.info("source ready", extra={"queue": self._queue})
        self._was_ready = True
        self._lost_at, self._is_told = None, False
        if self._events.active:
            from qbridge.events import SourceReady

            self._events.emit(SourceReady(queue=self._queue, outage=outage))
