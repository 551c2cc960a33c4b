"""Dispatcher: claimed messages to loop groups, ended jobs to settlements, and the credit that bounds both.

Belongs to the main thread's loop. It never runs a handler and never waits for one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from time import monotonic

from qbridge.admission import Admission, Route
from qbridge.calls import any_within
from qbridge.draining import DrainReport, DrainTally
from qbridge.endings import Endings
from qbridge.event_hub import EventHub
from qbridge.execution import CancelReason, Job, failed
from qbridge.intake import RECEIVE_WAIT, Intake
from qbridge.journal import identity, log_failure
from qbridge.lanes import Feed, Lane
from qbridge.lingering import Lingering, overdue
from qbridge.loops import LoopGroup, LoopThread
from qbridge.registry import HandlerRegistry
from qbridge.retry import RetryPolicy
from qbridge.retry_budget import RetryBudget
from qbridge.source import Delivery
from qbridge.stacks import Sight
from qbridge.takeover import heir_of

__all__ = ["Dispatcher", "DrainReport"]

log = logging.getLogger(__name__)

#: Seconds that a receive under way gets to return when the worker leaves.
_STOP_CLAIMING = 2.0

#: Seconds for which a message that came back waits for the end of an earlier run here; then its attempt has failed.
_LONGEST_WAIT = 60.0


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
        self._lanes = {name: Lane(group) for name, group in groups.items()}
        self._routes: dict[Intake, tuple[Route, Lane]] = {}
        self._lingering = Lingering()
        self._max_crashes = max_crashes
        self._events = events
        self._receive_wait = receive_wait
        self._suspect: Job | None = None  # waits until nothing else is held here
        self._alone: Job | None = None  # the suspect that runs
        self._is_wary = False  # whether the last claim brought a suspect: more are likely to follow
        self._draining = False
        self._endings = Endings(events)
        self._idle = asyncio.Event()
        #: Set each time a claim has found nothing while nothing runs; whoever waits for it clears it first.
        self.found_nothing = asyncio.Event()

    def add(self, intake: Intake, route: Route, budget: RetryBudget | None = None) -> None:
        """Let a queue feed its loop group, and slow its claims while its retry budget is spent; None never does."""
        lane = self._lanes[route.loops]
        lane.feeds[intake] = Feed(intake, budget or RetryBudget(ratio=0, reserve=1))
        lane.read_ahead += route.read_ahead
        self._routes[intake] = (route, lane)

    @property
    def in_flight(self) -> int:
        """How many jobs wait or run in this worker."""
        return (
            (self._suspect is not None)
            + self._lingering.waiting
            + sum(len(lane.pending) + lane.group.in_flight for lane in self._lanes.values())
        )

    @property
    def tasks_ended(self) -> int:
        """How many handlers have ended in this worker and were settled, well or not."""
        return sum(self._endings.tally.values())

    @property
    def outcomes(self) -> dict[str, int]:
        """The same by the action that they were settled with."""
        return {action.value: count for action, count in self._endings.tally.items()}

    @property
    def _is_done(self) -> bool:
        """Whether nothing waits or runs here, but for handlers whose messages are no longer theirs."""
        return self._alone is None and self.in_flight <= len(self._lingering)

    async def claimable(self, intake: Intake) -> tuple[int, float]:
        """Wait for credit; return how many messages to claim and how long to wait for them (`Consumer.claimable`)."""
        _, lane = self._routes[intake]
        while not (credit := 0 if self._is_quarantined or self._draining else lane.credit_of(intake)) > 0:
            if self._draining or not await lane.wait_for_room(intake):
                return 0, 0.0
        return lane.share(intake, 1 if self._is_wary else credit, self._receive_wait)

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
        is_open = not self._draining and not self._is_quarantined
        for delivery in deliveries:
            # A first attempt was never here: what comes back has a later one.
            if delivery.attempt > 1 and intake.take_back(delivery):
                continue
            job = self._admission.admit(intake, route, delivery, claimed_at)
            intake.hold(delivery, job)
            if job is None:
                continue
            if delivery.attempt > 1 and not self._draining and self._lingering.hold_back(job):
                asyncio.get_running_loop().call_later(_LONGEST_WAIT, self._fail_waiting, job)
                continue
            if is_open and not delivery.crashes:
                lane.pending.append(job)
            else:
                self._place(job, lane)
                is_open = not self._draining and not self._is_quarantined
        self._advance()
        if not deliveries and self._is_done:
            self.found_nothing.set()

    def on_settled(self) -> None:
        """Start a suspect that has waited for the broker to have all the others back (`Consumer.on_settled`)."""
        if self._suspect is not None:
            self._advance()

    def lose(self, job: Job) -> None:
        """Cancel the handler of a delivery whose lease is lost; nothing is settled (`Consumer.lose`)."""
        if self._events.active:
            from qbridge.events import LeaseLost

            self._events.emit(LeaseLost(queue=job.queue, task=job.message.task, message_id=job.message.id))
        if self._endings.drain is not None:
            self._endings.drain.lost += 1
        for _ in self._lingering.take_waiting(job):
            return
        if job.thread is not None:
            self._lingering.add(job)
            job.thread.cancel(job, CancelReason.LEASE_LOST)
        elif job is self._suspect:  # nothing has to wait for it any more
            self._suspect = None
            self._advance()
        else:  # it waits for its turn, and will end as soon as that comes
            job.cancel_reason = CancelReason.LEASE_LOST

    def let_go(self, job: Job, ran: float) -> None:
        """Settle a job whose handler ignores its time limit as failed; it runs on (`Consumer.let_go`)."""
        job.owner.counts.overtimes += 1
        log.warning("handler ignores its timeout, its attempt has failed and it runs on", extra=identity(job))
        if self._events.active:
            from qbridge.events import TimeoutIgnored

            event = TimeoutIgnored(queue=job.queue, task=job.message.task, message_id=job.message.id, ran=ran)
            self._events.emit(event)
        ended = overdue(job, ran)
        job.owner.hold(job.delivery, ended)
        self._lingering.add(job)
        self._endings.settle(ended)
        self._advance()

    def on_ended(self, jobs: Sequence[Job]) -> None:
        """Settle jobs that loop threads hand back, and fill the room that they leave."""
        self._endings.begin()
        for job in jobs:
            job.thread.in_flight -= 1
            if job is self._alone:
                self._alone = None
            if job.owner.has(job):
                self._endings.settle(job)
            else:  # its message was given up before it ended
                self._note_late_end(job)
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
        if self._alone is not None and self._alone.thread is thread and self._alone not in left:
            self._alone = None  # its lease was lost before
        for waiting in self._lingering.forget_thread(thread):
            self._place(waiting, self._routes[waiting.owner][1])
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

        Takes at most the three times together.

        Args:
            grace: Seconds for running handlers to end by themselves, and for the claims under way to return.
            cancel_grace: Seconds for cancelled handlers to clean up.
            flush: Seconds for settlements to reach the broker.
            hurry: Set to cancel handlers before the grace is over.
        """
        await self.wind_down(grace=grace, cancel_grace=cancel_grace, hurry=hurry)
        return await self.flush(flush)

    async def wind_down(self, *, grace: float, cancel_grace: float, hurry: asyncio.Event | None = None) -> None:
        """The first part of a drain: when it returns nothing runs here any more, or it is abandoned."""
        hurry = hurry or asyncio.Event()
        until = monotonic() + grace
        self._draining = True
        tally = self._endings.drain = DrainTally(self._routes)
        for intake in self._routes:
            intake.stop_claiming()
        # What a claim brings now is released behind what waits here, which is older and goes to the front after it.
        await asyncio.gather(*(intake.claims_ended(min(_STOP_CLAIMING, grace)) for intake in self._routes))
        self._release_unstarted()
        self._advance()
        await any_within(max(0.0, until - monotonic()), self._idle, hurry)
        if not self._idle.is_set():
            for lane in self._lanes.values():
                for thread in lane.group.threads:
                    thread.cancel_all(CancelReason.DRAIN)
            await any_within(cancel_grace, self._idle)
        tally.abandoned = self._abandon()

    async def flush(self, timeout: float) -> DrainReport:
        """The second part of a drain: settle all that is to be settled, within `timeout` seconds."""
        await asyncio.gather(*(intake.finish(timeout) for intake in self._routes))
        return DrainReport() if self._endings.drain is None else self._endings.drain.report()

    def _advance(self) -> None:
        """Start what can start, tell intakes of free credit, and note whether all is done."""
        if self._is_quarantined and not self._draining:
            self._start_suspect()
        elif not self._draining:
            for lane in self._lanes.values():
                self._fill(lane)
        if self._is_done:
            self._idle.set()
        else:
            self._idle.clear()

    def _place(self, job: Job, lane: Lane) -> None:
        """Let a job wait for its turn, or put it back."""
        is_suspect = job.delivery.crashes >= max(1, self._max_crashes - 1)
        self._is_wary |= is_suspect
        if self._draining or self._is_quarantined:
            self._put_back(job)
        elif is_suspect:
            self._quarantine(job)
        else:
            lane.pending.append(job)

    def _note_late_end(self, job: Job) -> None:
        job.owner.counts.suppressed += 1
        if job.settlement is None:  # its lease was lost; of the others was told when they were given up
            self._endings.tell(job)
        waiting = self._lingering.ended(job)
        if waiting is not None:
            self._place(waiting, self._routes[waiting.owner][1])

    def _fail_waiting(self, job: Job) -> None:
        """Give up waiting for the end of an earlier run of a message, if it still waits."""
        for waiting in self._lingering.take_waiting(job):
            waiting.error = "an earlier run of this message has not ended in this worker"
            job.owner.counts.failed += 1
            job.owner.settle(settlement := failed(waiting))
            log_failure(waiting, settlement)

    def _fill(self, lane: Lane) -> None:
        if lane.pending and (free := lane.group.free) > 0:
            lane.pending.extendleft(reversed(lane.group.submit(lane.take(free))))
        lane.tell_of_room()

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
        if job is None or sum(lane.group.in_flight for lane in self._lanes.values()) > len(self._lingering):
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
                self._put_back(job)
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

    def _release_unstarted(self) -> None:
        """Put back what waits here and what the loops have not received, in the order in which it was claimed."""
        unstarted = set(self._lingering.take_waiting())
        if self._suspect is not None:
            unstarted.add(self._suspect)
        self._suspect = None
        for lane in self._lanes.values():
            unstarted.update(lane.pending)
            lane.pending.clear()
            for thread in lane.group.threads:
                unstarted.update(thread.recall())
        for intake in self._routes:
            for job in intake.running_jobs():
                if job in unstarted:
                    self._put_back(job)

    def _abandon(self) -> int:
        """Let the leases of what still runs lapse; return how many that are."""
        abandoned = 0
        for intake in self._routes:
            for job in intake.running_jobs():
                log.error("handler did not end, it is left behind and its lease runs out", extra=identity(job))
                intake.forget(job.delivery)
                abandoned += 1
        return abandoned
