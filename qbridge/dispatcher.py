"""Dispatcher: claimed messages to loop groups, ended jobs to settlements, and the credit that bounds both.

Belongs to the main thread's loop. It never runs a handler and never waits for one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from qbridge.admission import Admission, Route
from qbridge.events import EventHub, LeaseLost
from qbridge.execution import CancelReason, Job
from qbridge.intake import RECEIVE_WAIT, Intake
from qbridge.journal import ending, finished_event, identity, log_failure
from qbridge.loops import LoopGroup, LoopThread
from qbridge.registry import HandlerRegistry
from qbridge.retry import RetryPolicy
from qbridge.source import Action, Delivery
from qbridge.stacks import Sight
from qbridge.takeover import heir_of

__all__ = ["Dispatcher", "DrainReport"]

log = logging.getLogger(__name__)

#: Seconds that a receive under way gets to return when the worker leaves.
_STOP_CLAIMING = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What became of the deliveries that a worker held when its drain began.

    Attributes:
        finished: Handlers that ended by themselves, well or not.
        released: Messages put back untried: not started yet, or cancelled when the grace was over.
        cancelled: How many of the released had started.
        abandoned: Handlers that outlived their cancellation, and ends that did not reach the broker. Their messages
            come back when their leases run out.
    """

    finished: int = 0
    released: int = 0
    cancelled: int = 0
    abandoned: int = 0


@dataclass(slots=True, eq=False)
class _Lane:
    """One loop group, the queues that feed it, and what waits for room in it."""

    group: LoopGroup
    intakes: list[Intake] = field(default_factory=list)
    pending: deque[Job] = field(default_factory=deque)
    reserved: dict[Intake, int] = field(default_factory=dict)
    waiters: dict[Intake, asyncio.Future[bool]] = field(default_factory=dict)
    read_ahead: int = 0

    def credit(self) -> int:
        """How many more messages may be claimed."""
        return self.group.free + self.read_ahead - len(self.pending) - sum(self.reserved.values())


class Dispatcher:
    """The core of the worker: intakes on one side, loop groups on the other.

    Args:
        registry: The handlers.
        groups: The loop groups by name.
        retry: The policy of handlers that have none.
        max_crashes: How often a message may come back because its worker died; then it is a dead letter `crashed`.
            One that has crashed and is a single crash away from it runs alone, so that it can blame nobody else.
        events: Where ends are told.
        receive_wait: Seconds that a claim waits for a message.
    """

    def __init__(
        self,
        registry: HandlerRegistry,
        groups: Mapping[str, LoopGroup],
        *,
        retry: RetryPolicy,
        max_crashes: int,
        events: EventHub,
        receive_wait: float = RECEIVE_WAIT,
    ) -> None:
        self._admission = Admission(registry, retry=retry, max_crashes=max_crashes, events=events)
        self._lanes = {name: _Lane(group) for name, group in groups.items()}
        self._routes: dict[Intake, tuple[Route, _Lane]] = {}
        self._max_crashes = max_crashes
        self._events = events
        self._receive_wait = receive_wait
        self._suspect: Job | None = None  # waits until nothing else is held here
        self._alone: Job | None = None  # the suspect that runs
        self._is_wary = False  # whether the last claim brought a suspect: more are likely to follow
        self._draining = False
        self._tally = dict.fromkeys(Action, 0)
        self._released_unstarted = 0
        self._idle = asyncio.Event()
        #: Set each time a claim has found nothing while nothing runs; whoever waits for it clears it first.
        self.found_nothing = asyncio.Event()

    def add(self, intake: Intake, route: Route) -> None:
        """Let a queue feed its loop group."""
        lane = self._lanes[route.loops]
        lane.intakes.append(intake)
        lane.read_ahead += route.read_ahead
        self._routes[intake] = (route, lane)

    @property
    def in_flight(self) -> int:
        """How many jobs wait or run in this worker."""
        return (self._suspect is not None) + sum(
            len(lane.pending) + lane.group.in_flight for lane in self._lanes.values()
        )

    @property
    def tasks_ended(self) -> int:
        """How many handlers have ended in this worker and were settled, well or not."""
        return sum(self._tally.values())

    async def claimable(self, intake: Intake) -> tuple[int, float]:
        """Wait for credit; return how many messages to claim and how long to wait for them (`Consumer.claimable`).

        A queue that has its group to itself claims all that can start. Where several share one, those that found
        something last time share the room, and each of the others waits for a single message, so that an idle queue
        holds nothing that a busy one could use.
        """
        _, lane = self._routes[intake]
        while not (credit := 0 if self._is_quarantined or self._draining else lane.credit()) > 0:
            if self._draining:
                return 0, 0.0
            waiter = lane.waiters[intake] = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                del lane.waiters[intake]
            if waiter.result() is False:
                return 0, 0.0
        if self._is_wary:
            credit = 1
        if len(lane.intakes) == 1:
            lane.reserved[intake] = credit
            return credit, self._receive_wait
        if intake.is_idle:
            return 1, self._receive_wait
        busy = sum(not other.is_idle for other in lane.intakes)
        lane.reserved[intake] = share = max(1, credit // busy)
        return share, 0.0

    def interrupt(self, intake: Intake) -> None:
        """Let a waiting `claimable` return with 0 (`Consumer.interrupt`)."""
        waiter = self._routes[intake][1].waiters.get(intake)
        if waiter is not None and not waiter.done():
            waiter.set_result(False)

    def accept(self, intake: Intake, deliveries: Sequence[Delivery]) -> None:
        """Turn deliveries into jobs and start what can start (`Consumer.accept`)."""
        route, lane = self._routes[intake]
        lane.reserved.pop(intake, None)
        claimed_at = monotonic()
        self._is_wary = False
        for delivery in deliveries:
            job = self._admission.admit(intake, route, delivery, claimed_at)
            intake.hold(delivery, job)
            if job is None:
                continue
            is_suspect = delivery.crashes >= max(1, self._max_crashes - 1)
            self._is_wary |= is_suspect
            if self._draining:
                self._settle_unstarted(job)
            elif self._is_quarantined:
                self._put_back(job)
            elif is_suspect:
                self._quarantine(job)
            else:
                lane.pending.append(job)
        self._advance()
        if not deliveries and self.in_flight == 0:
            self.found_nothing.set()

    def on_settled(self) -> None:
        """Start a suspect that has waited for the broker to have all the others back (`Consumer.on_settled`)."""
        if self._suspect is not None:
            self._advance()

    def lose(self, job: Job) -> None:
        """Cancel the handler of a delivery whose lease is lost; nothing is settled (`Consumer.lose`)."""
        if self._events.active:
            self._events.emit(LeaseLost(queue=job.queue, task=job.message.task, message_id=job.message.id))
        if job.thread is not None:
            job.thread.cancel(job, CancelReason.LEASE_LOST)
        else:  # it waits for its turn, and will end as soon as that comes
            job.cancel_reason = CancelReason.LEASE_LOST

    def on_ended(self, jobs: Sequence[Job]) -> None:
        """Settle jobs that loop threads hand back, and fill the room that they leave."""
        debug = log.isEnabledFor(logging.DEBUG)
        listening = self._events.active
        for job in jobs:
            job.thread.in_flight -= 1
            if job is self._alone:
                self._alone = None
            settlement = job.settlement
            if settlement is None:
                job.owner.forget(job.delivery)
            elif not job.owner.holds(job.delivery):  # it was given up before it ended
                continue
            else:
                self._tally[settlement.action] += 1
                job.owner.settle(settlement)
                if settlement.error:
                    log_failure(job, settlement)
            if debug:
                log.debug("task ended", extra=identity(job) | ending(job))
            if listening:
                self._events.emit(finished_event(job))
        self._advance()

    def redeal(self, thread: LoopThread) -> None:
        """Deal anew what a loop thread has not received (`Keeper.redeal`)."""
        self._requeue(thread.recall())
        self._advance()

    def give_up(self, thread: LoopThread, sight: Sight, seconds: float) -> None:
        """Settle what a loop thread has that is given up, and deal anew what it has not received (`Keeper.give_up`)."""
        unreceived, ended = thread.fence()
        self._requeue(unreceived)
        self.on_ended(ended)
        left = [job for intake in self._routes for job in intake.running_jobs() if job.thread is thread]
        thread.in_flight = len(left)  # and no job whose lease was lost: nobody hears of its end
        heirs = [heir_of(job, sight, seconds, lambda heir: self.on_ended([heir])) for job in left]
        for job, heir in zip(left, heirs, strict=True):
            heir.owner.hold(heir.delivery, heir)
            self._alone = heir if job is self._alone else self._alone
        self.on_ended([heir for heir in heirs if heir.ended_at])

    @property
    def is_draining(self) -> bool:
        """Whether nothing more is started (`Keeper.is_draining`)."""
        return self._draining

    async def drain(
        self, *, grace: float, cancel_grace: float, flush: float, hurry: asyncio.Event | None = None
    ) -> DrainReport:
        """Stop claiming, release what has not started, let run what runs, and settle all of it.

        Args:
            grace: Seconds for running handlers to end by themselves.
            cancel_grace: Seconds for cancelled handlers to clean up.
            flush: Seconds for settlements to reach the broker.
            hurry: Set to cancel handlers before the grace is over.
        """
        hurry = hurry or asyncio.Event()
        self._draining = True
        before = dict(self._tally)
        for intake in self._routes:
            intake.stop_claiming()
        await asyncio.gather(*(intake.claims_ended(_STOP_CLAIMING) for intake in self._routes))
        self._release_unstarted()
        self._advance()
        if not await _any_within(grace, self._idle, hurry) or not self._idle.is_set():
            for lane in self._lanes.values():
                for thread in lane.group.threads:
                    thread.cancel_all(CancelReason.DRAIN)
            await _any_within(cancel_grace, self._idle)
        abandoned = self._abandon()
        unsettled = await asyncio.gather(*(intake.finish(flush) for intake in self._routes))
        ended = {action: self._tally[action] - before[action] for action in Action}
        cancelled = ended[Action.RELEASE]
        return DrainReport(
            finished=sum(ended.values()) - cancelled,
            released=self._released_unstarted + cancelled,
            cancelled=cancelled,
            abandoned=abandoned + sum(unsettled),
        )

    def _advance(self) -> None:
        """Start what can start, tell intakes of free credit, and note whether all is done."""
        if self._is_quarantined and not self._draining:
            self._start_suspect()
        elif not self._draining:
            for lane in self._lanes.values():
                self._fill(lane)
        if self._alone is None and self.in_flight == 0:
            self._idle.set()
        else:
            self._idle.clear()

    def _fill(self, lane: _Lane) -> None:
        if lane.pending and (free := lane.group.free) > 0:
            jobs = [lane.pending.popleft() for _ in range(min(free, len(lane.pending)))]
            lane.pending.extendleft(reversed(lane.group.submit(jobs)))
        if lane.waiters and lane.credit() > 0:
            for waiter in lane.waiters.values():
                if not waiter.done():
                    waiter.set_result(True)

    @property
    def _is_quarantined(self) -> bool:
        """Whether a suspect runs alone, or waits for that."""
        return self._suspect is not None or self._alone is not None

    def _quarantine(self, job: Job) -> None:
        """Let a suspect run alone, and put back all that has not started: whatever is held here when it kills this
        worker would be taken for a killer too.
        """
        self._suspect = job
        for lane in self._lanes.values():
            for waiting in lane.pending:
                self._put_back(waiting)
            lane.pending.clear()

    def _start_suspect(self) -> None:
        """Start the suspect once nothing else runs, and the broker has everything else back."""
        job = self._suspect
        if job is None or any(lane.group.in_flight for lane in self._lanes.values()):
            return
        if sum(intake.held for intake in self._routes) > 1:
            return
        log.warning("a message that may have crashed its worker runs alone", extra=identity(job))
        lane = self._routes[job.owner][1]
        if not lane.group.submit([job]):
            self._suspect, self._alone = None, job

    def _requeue(self, jobs: Sequence[Job]) -> None:
        """Let jobs that one loop thread has not received wait for their turn again, before those that came later."""
        for job in jobs:
            job.thread = None
        held = [job for job in jobs if job.owner.holds(job.delivery)]
        if self._draining:
            for job in held:
                self._settle_unstarted(job)
        elif self._is_quarantined:
            for job in held:
                if job is self._alone:
                    self._suspect, self._alone = job, None
                else:
                    self._put_back(job)
        elif held:
            self._routes[held[0].owner][1].pending.extendleft(reversed(held))

    def _put_back(self, job: Job) -> None:
        if job.cancel_reason is CancelReason.LEASE_LOST:
            job.owner.forget(job.delivery)
        else:
            job.owner.settle(job.delivery.release())

    def _settle_unstarted(self, job: Job) -> None:
        self._released_unstarted += job.cancel_reason is not CancelReason.LEASE_LOST
        self._put_back(job)

    def _release_unstarted(self) -> None:
        """Put back what waits here and what the loops have not received, in the order in which it was claimed."""
        unstarted = set() if self._suspect is None else {self._suspect}
        self._suspect = None
        for lane in self._lanes.values():
            unstarted.update(lane.pending)
            lane.pending.clear()
            for thread in lane.group.threads:
                unstarted.update(thread.recall())
        for intake in self._routes:
            for job in intake.running_jobs():
                if job in unstarted:
                    self._settle_unstarted(job)

    def _abandon(self) -> int:
        """Let the leases of what still runs lapse; return how many that are."""
        abandoned = 0
        for intake in self._routes:
            for job in intake.running_jobs():
                log.error("handler did not end, it is left behind and its lease runs out", extra=identity(job))
                intake.forget(job.delivery)
                abandoned += 1
        return abandoned


async def _any_within(timeout: float, *events: asyncio.Event) -> bool:
    """Wait until one of the events is set; return False after `timeout` seconds."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return bool(done)
