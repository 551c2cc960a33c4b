"""Endings: how jobs end is handed to their intakes, counted, logged and told."""

from __future__ import annotations

import logging

from qbridge.draining import DrainTally
from qbridge.event_hub import EventHub
from qbridge.execution import Job
from qbridge.journal import ending, finished_event, identity, log_failure
from qbridge.returns import settlement_for
from qbridge.source import Action, DeadLetterReason

__all__ = ["Endings"]

log = logging.getLogger("qbridge.dispatcher")

#: How handlers end that did not do what they were to do.
_FAILURES = frozenset({(Action.RETRY, ""), (Action.DEAD_LETTER, DeadLetterReason.EXHAUSTED)})


class Endings:
    """Belongs to the main thread's loop.

    Args:
        events: Where ends are told.
    """

    def __init__(self, events: EventHub) -> None:
        self._events = events
        self._is_debugging = False
        #: How many jobs were settled, by action.
        self.tally = dict.fromkeys(Action, 0)
        #: Counts what becomes of deliveries from the beginning of a drain.
        self.drain: DrainTally | None = None

    def begin(self) -> None:
        """Look once, for a batch, whether the log wants each end."""
        self._is_debugging = log.isEnabledFor(logging.DEBUG)

    def settle(self, job: Job) -> None:
        """Settle a job that has ended, and tell of it."""
        settlement = job.settlement
        if settlement is None:
            job.owner.forget(job.delivery)
        else:
            if settlement.delivery is not job.delivery:  # it came back while it ran
                settlement = settlement_for(job.delivery, settlement)
            if settlement.action is Action.ACK:
                job.owner.counts.succeeded += 1
            elif (settlement.action, settlement.reason) in _FAILURES:
                job.owner.counts.failed += 1
            self.tally[settlement.action] += 1
            if self.drain is not None:
                self.drain.cancelled += settlement.action is Action.RELEASE
            job.owner.settle(settlement)
            if settlement.error:
                log_failure(job, settlement)
        if self._is_debugging or self._events.active:
            self.tell(job)

    def tell(self, job: Job) -> None:
        """Tell of a job that has ended."""
        if self._is_debugging:
            log.debug("task ended", extra=identity(job) | ending(job))
        if self._events.active:
            self._events.emit(finished_event(job))
