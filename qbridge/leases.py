"""Leases: keeps what is claimed this worker's own while it works on it, and no longer than it should."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from qbridge.calls import any_within
from qbridge.execution import CancelReason, Job
from qbridge.source import Delivery, QueueSource

__all__ = ["Leases"]

log = logging.getLogger(__name__)

#: Seconds between two looks for handlers that ignore their time limit: a share of the overtime, within these.
_SHORTEST_LOOK, _LONGEST_LOOK = 0.05, 5.0


class Leases:
    """The leases of one queue's deliveries. Belongs to the main thread's loop, and asks nothing of a handler's.

    Args:
        queue: The queue's name.
        source: The source.
        held: Deliveries claimed and not yet settled, with their jobs; None once the job is over, or never was.
        lose: Called with each job whose delivery is no longer ours.
        let_go: Called with each job that has ignored its time limit for `overtime`, and the seconds that it ran.
        overtime: Seconds that a handler over its timeout keeps its message though it ignores being cancelled.
        call_timeout: Gives the seconds that a renewal may take.
    """

    def __init__(
        self,
        queue: str,
        source: QueueSource,
        held: Mapping[Delivery, Job | None],
        *,
        lose: Callable[[Job], None],
        let_go: Callable[[Job, float], None],
        overtime: float,
        call_timeout: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._source = source
        self._held = held
        self._lose = lose
        self._let_go = let_go
        self._overtime = overtime
        self._call_timeout = call_timeout
        # When plain functions were first seen to run over their time: it begins when a thread takes them up.
        self._over_since: dict[Job, float] = {}
        self._was_open = False

    async def run(self, due: dict[str, float], *until: asyncio.Event) -> None:
        """Renew, and look for handlers that ignore their time limit, until one of the events is set.

        Called for each connection. It renews right after opening, since an outage may have outlived a lease. Where the
        connection is the lease, what had not started when it ended is not started any more.

        Args:
            due: Calls under way, and when they must be over; shared with whoever watches them.
            until: What ends this.
        """
        lease = self._source.lease if self._source.capabilities.lease == "timeout" else None
        interval = float("inf") if lease is None else lease / 3
        look = min(max(self._overtime / 4, _SHORTEST_LOOK), _LONGEST_LOOK)
        fresh_since = next_renewal = monotonic()
        if lease is None:
            next_renewal = float("inf")
            if self._was_open:
                await self._renew(
                    due, [job.delivery for job in self._held.values() if job is not None and not job.started_at]
                )
        self._was_open = True
        while not any(event.is_set() for event in until):
            now = monotonic()
            if now >= next_renewal:
                await self._renew(
                    due, [held for held, job in self._held.items() if job is None or job.claimed_at <= fresh_since]
                )
                # What was claimed during the last half of the interval has the longer half of its lease left.
                fresh_since = monotonic() + interval / 2
                next_renewal = monotonic() + interval
            self._look_for_overtime(now)
            await any_within(max(0.0, min(look, next_renewal - monotonic())), *until)

    async def _renew(self, due: dict[str, float], held: Sequence[Delivery]) -> None:
        if not held:
            return
        timeout = self._call_timeout()
        due["keep_alive"] = monotonic() + timeout
        async with asyncio.timeout(timeout):
            lost = await self._source.keep_alive(held)
        del due["keep_alive"]
        for delivery in lost:
            job = self._held.get(delivery)
            if job is not None:
                self._lose(job)

    def _look_for_overtime(self, now: float) -> None:
        over: dict[Job, float] = {}
        for job in self._held.values():
            if job is None or not job.started_at or (timeout := job.handler.timeout) is None:
                continue
            if job.handler.is_coroutine:
                since = job.started_at + timeout
                if now <= since:
                    continue
            elif job.cancel_reason is CancelReason.TIMEOUT:
                since = self._over_since.get(job, now)
            else:
                continue
            over[job] = since
        self._over_since = over
        for job, since in over.items():
            if now - since > self._overtime:
                self._let_go(job, now - job.started_at)
