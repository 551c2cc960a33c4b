"""Lane: one loop group, the queues that feed it, and the room that they share."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field

from qbridge.execution import Job
from qbridge.intake import Intake
from qbridge.loops import LoopGroup
from qbridge.retry_budget import RetryBudget

__all__ = ["Feed", "Lane"]

log = logging.getLogger("qbridge.dispatcher")

#: The share of its room that a queue may use whose retry budget is spent.
_SLOW_SHARE = 0.1


class Feed:
    """What a queue may use of its loop group. Belongs to the main thread's loop.

    Args:
        intake: The queue's intake, which counts what succeeds and what fails.
        budget: How much may fail before the queue is slowed.
    """

    def __init__(self, intake: Intake, budget: RetryBudget) -> None:
        self._intake = intake
        self._budget = budget
        self._succeeded = self._failed = 0

    def room(self, capacity: int, credit: int) -> int:
        """Return how many of `credit` messages may be claimed for a group that runs `capacity` at once."""
        self._count()
        if not self._budget.is_spent or credit <= 0:
            return credit
        return min(credit, max(1, int(capacity * _SLOW_SHARE)) - len(self._intake.running_jobs()))

    def _count(self) -> None:
        counts, was_spent = self._intake.counts, self._budget.is_spent
        succeeded, failed = counts.succeeded - self._succeeded, counts.failed - self._failed
        if not failed and not was_spent:
            return  # what it has earned is counted when it is needed
        self._succeeded, self._failed = counts.succeeded, counts.failed
        self._budget.count(succeeded=succeeded, failed=failed)
        if self._budget.is_spent and not was_spent:
            counts.slowed += 1
            log.warning(
                "more fails than the retry budget allows, the queue is slowed to a tenth",
                extra={"queue": self._intake.queue},
            )
        elif was_spent and not self._budget.is_spent:
            log.info("the retry budget has recovered", extra={"queue": self._intake.queue})


@dataclass(slots=True, eq=False)
class Lane:
    """One loop group, the queues that feed it, and what waits for room in it."""

    group: LoopGroup
    feeds: dict[Intake, Feed] = field(default_factory=dict)
    pending: deque[Job] = field(default_factory=deque)
    reserved: dict[Intake, int] = field(default_factory=dict)
    waiters: dict[Intake, asyncio.Future[bool]] = field(default_factory=dict)
    read_ahead: int = 0

    def take(self, most: int) -> list[Job]:
        """Take out what has waited longest, `most` at most."""
        if len(self.pending) <= most:
            jobs = list(self.pending)
            self.pending.clear()
            return jobs
        return [self.pending.popleft() for _ in range(most)]

    def credit(self) -> int:
        """How many more messages may be claimed."""
        return self.group.free + self.read_ahead - len(self.pending) - sum(self.reserved.values())

    def credit_of(self, intake: Intake) -> int:
        """How many of these one queue may claim."""
        return self.feeds[intake].room(self.group.capacity, self.credit())

    async def wait_for_room(self, intake: Intake) -> bool:
        """Wait until there may be room; return False if the queue is to claim nothing meanwhile."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiters[intake] = waiter
        try:
            return await waiter
        finally:
            del self.waiters[intake]

    def tell_of_room(self) -> None:
        """Let queues look again that wait for room."""
        if self.waiters and self.credit() > 0:
            for waiter in self.waiters.values():
                if not waiter.done():
                    waiter.set_result(True)

    def share(self, intake: Intake, credit: int, wait: float) -> tuple[int, float]:
        """Return how many messages a queue claims of what it may, and for how many seconds it waits for the first.

        A queue that has the group to itself claims all that can start. Where several share it, those that found
        something last time share the room, and each of the others waits for a single message, so that an idle queue
        holds nothing that a busy one could use.
        """
        if len(self.feeds) == 1:
            self.reserved[intake] = credit
            return credit, wait
        if intake.is_idle:
            return 1, wait
        busy = sum(not other.is_idle for other in self.feeds)
        self.reserved[intake] = share = max(1, credit // busy)
        return share, 0.0
