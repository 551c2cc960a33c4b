"""Simulation: a worker whose handlers, broker, rivals and time do what a test says, one event at a time.

Dispatcher, intakes and loop threads are the real ones. Their event loops take turns on a stepped clock, the queues are
in memory and audited, and the handlers wait for orders.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import ExitStack
from itertools import count
from typing import Any, TypeVar

from qbridge import Action, Delivery, HandlerRegistry, Outgoing, Reject, Retry, TaskContext, TaskMessage
from qbridge.admission import Route
from qbridge.codec import JsonCodec
from qbridge.dispatcher import DrainReport
from qbridge.execution import Job
from qbridge.intake import Intake, IntakeState
from qbridge.watchdog import LoopLimits
from qbridge_memory import MemoryOptions, MemorySource
from tests.support.audited_source import AuditedSource, Claim, End, Run
from tests.support.stepped_loop import SteppedLoop, Stepper
from tests.support.worker_bench import WorkerBench

__all__ = ["A_LOOK", "LEASE", "Simulation"]

T = TypeVar("T")

#: Seconds of every lease.
LEASE = 6.0

#: Seconds within which the worker sees that a loop turns again.
A_LOOK = 1.0

#: Seconds of the lease of a worker that dies at once.
AT_ONCE = 0.001

#: Seconds that a handler with a limit may run.
TIME_LIMIT = 4.0

#: Seconds beyond that after which it is let go if it ignores being cancelled.
OVERTIME = 3.0

#: Seconds without a message, though there are some, after which a connection is made anew.
STALLED_AFTER = 9.0

#: Seconds of the stages of the last drain, if a test has begun none.
LAST_STAGE = 1.0

#: Seconds within which a worker must have left, whatever hangs.
LONGEST_LEAVING = 120.0

_BLOCK, _BE_DEAF = object(), object()

_BAD_BODIES = {
    "undecodable": b"\xff",
    "unknown": JsonCodec().encode(TaskMessage(id="unknown", task="nobody.knows.it")),
    "invalid": JsonCodec().encode(TaskMessage(id="invalid", task="act", args=["too", "many"])),
}


class _Bench(WorkerBench):
    """A worker on audited queues."""

    sources: dict[str, AuditedSource]  # type: ignore[assignment]  # every one of them is made here

    async def add_audited(self, name: str, *, read_ahead: int) -> AuditedSource:
        """Add a queue."""
        source = AuditedSource(self.broker, name, lease=LEASE, changed=self.watch.changed)
        intake = Intake(
            name, source, consumer=self.dispatcher, events=self.hub, stalled_after=STALLED_AFTER, overtime=OVERTIME
        )
        self.dispatcher.add(intake, Route(codec=JsonCodec(), read_ahead=read_ahead))
        self.sources[name], self.intakes[name] = source, intake
        source.running_jobs = intake.running_jobs
        return source


class Simulation:
    """One worker, from its start to its end, and the other worker that takes from the same queues.

    Args:
        threads: Loop threads.
        concurrency: Of each of them.
        queues: How many queues share them.
        read_ahead: Of each queue.
        max_crashes: As in the YAML.
        replace_after: Seconds after which a blocked loop is given up; None never does.
    """

    def __init__(
        self,
        *,
        threads: int,
        concurrency: int,
        queues: int,
        read_ahead: int,
        max_crashes: int,
        replace_after: float | None = None,
    ) -> None:
        self._patches = ExitStack()
        self.stepper = Stepper()
        self._patches.enter_context(self.stepper.patched())
        quiet = logging.getLogger("qbridge")
        self._patches.callback(quiet.setLevel, quiet.level)
        quiet.setLevel(logging.CRITICAL + 1)  # thousands of faults would be told of
        self.capacity = threads * concurrency
        self.concurrency = concurrency
        #: What may be claimed and not ended: a queue that was idle may have one message more than there is room for.
        self.most_in_flight = self.capacity + queues * read_ahead + queues - 1
        #: Crashes with which a message is suspected of killing its worker.
        self.suspicious = max(1, max_crashes - 1)
        self._max_crashes = max_crashes
        self.runs: list[Run] = []
        self._claims: dict[Run, tuple[str, Claim]] = {}
        self.sent: dict[str, list[str]] = {}
        self._numbers = count()
        #: What the other worker holds.
        self.stolen: list[tuple[str, Delivery]] = []
        self._done_elsewhere: dict[str, list[str]] = {}
        self._rivals: dict[str, MemorySource] = {}
        self.hurry = asyncio.Event()
        self.report: DrainReport | None = None
        self.is_draining = False
        self._draining: asyncio.Task[None] | None = None
        self._is_closing = False
        #: While set, what happens waits; all of it then happens at once.
        self.is_held = False
        self._limits = LoopLimits(blocked_after=2.0, replace_after=replace_after)
        self.bench = self.stepper.run(self._begin(threads, concurrency, queues, read_ahead, max_crashes))
        self.settle()

    async def _begin(self, threads: int, concurrency: int, queues: int, read_ahead: int, max_crashes: int) -> _Bench:
        registry = HandlerRegistry()
        registry.task(name="act")(self._act)
        registry.task(name="limited", timeout=TIME_LIMIT)(self._act)
        bench = _Bench(
            registry,
            threads=threads,
            concurrency=concurrency,
            max_crashes=max_crashes,
            receive_wait=5.0,
            clock=self.stepper.clock,
            limits=self._limits,
        )
        self.bench = bench
        for name in "ab"[:queues]:
            await bench.add_audited(name, read_ahead=read_ahead)
            self.sent[name], self._done_elsewhere[name] = [], []
            self._rivals[name] = MemorySource(name, MemoryOptions(lease=LEASE), broker=bench.broker)
            await self._rivals[name].open()
        await bench.start()
        return bench

    @property
    def sources(self) -> dict[str, AuditedSource]:
        """The worker's sources by queue."""
        return self.bench.sources

    @property
    def active(self) -> list[Run]:
        """The handlers that run."""
        return [run for run in self.runs if run.end is None and not run.loop.is_closed()]

    @property
    def held_claims(self) -> list[tuple[str, Claim]]:
        """What the worker has to settle, by queue."""
        return [
            (name, claim)
            for name, source in self.sources.items()
            for claim in source.claims_seen.values()
            if not claim.is_over and not self._is_replaced(name, claim)
        ]

    def claim_of(self, run: Run) -> Claim:
        """Return the claim for which a handler works; the message may have come back to the worker meanwhile."""
        name, claim = self._claims[run]
        while not claim.is_over and claim.successor is not None and self._is_replaced(name, claim):
            claim = claim.successor
        return claim

    @property
    def blocked(self) -> list[SteppedLoop]:
        """The loops that a handler blocks."""
        return [loop for loop in self.stepper.loops if loop.is_blocked]

    @property
    def jobs(self) -> list[Job]:
        """What the worker has not seen the end of."""
        return [job for intake in self.bench.intakes.values() for job in intake.running_jobs()]

    def is_suspect(self, delivery: Delivery) -> bool:
        """Return whether a message may have killed its worker."""
        return delivery.crashes >= self.suspicious

    def is_calm(self, name: str) -> bool:
        """Return whether a queue's source is open and hangs nowhere."""
        return not self.sources[name].stuck and self.bench.intakes[name].state is IntakeState.READY

    def settle(self, *, home_first: bool = True, is_slow: bool = False) -> None:
        """Let everything happen that follows from what has happened."""
        if not self.is_held:
            self.stepper.settle(home_first=home_first, is_slow=is_slow)

    def send(self, queue: str, kind: str, *, count: int = 1, delay: float = 0.0) -> None:
        """Send messages: "act" and "limited" name a handler, other kinds can't be run."""
        messages = []
        for _ in range(count):
            is_good = kind in {"act", "limited"}
            message_id = f"{'good' if is_good else kind}-{next(self._numbers)}"
            body = JsonCodec().encode(TaskMessage(id=message_id, task=kind)) if is_good else _BAD_BODIES[kind]
            messages.append(Outgoing(body=body, message_id=message_id, delay=delay))
            self.sent[queue].append(message_id)
        self._do(self._rivals[queue].send(messages))

    def end(self, run: Run, how: End) -> None:
        """Let a handler end."""
        self._order(run, how)

    def block(self, run: Run) -> None:
        """Let a handler block its loop."""
        self._order(run, _BLOCK)

    def be_deaf(self, run: Run) -> None:
        """Let a handler ignore all cancelling from here on."""
        self._order(run, _BE_DEAF)

    def unblock(self, loop: SteppedLoop) -> None:
        """Let a blocked loop go on, until that is seen."""
        loop.is_blocked = False
        self.settle()
        if not self.is_held:
            self.stepper.pass_time(A_LOOK)

    def steal(self, queue: str, claim: Claim) -> None:
        """Let the broker give a message that the worker holds to the other worker."""
        rival = self._rivals[queue]
        [outcome] = self._do(rival.settle([claim.delivery.release()]))
        claim.is_stolen |= outcome == "done"
        self.take(queue)

    def take(self, queue: str) -> None:
        """Let the other worker take a message, if there is one."""
        self.stolen += [(queue, delivery) for delivery in self._do(self._rivals[queue].receive(1, 0))]

    def crash(self, queue: str, times: int) -> None:
        """Send a message that kills so many other workers before this one sees it, or let the first in line do so."""
        self.is_held = True
        self.send(queue, "act")
        source = MemorySource(queue, MemoryOptions(lease=AT_ONCE), broker=self.bench.broker)
        self._do(source.open())
        for _ in range(times):
            self._do(source.receive(1, 0))
            self.stepper.clock.advance(AT_ONCE)
        self.is_held = False
        self.settle()

    def finish_elsewhere(self) -> None:
        """Let the other worker end what it has held longest, if its lease still holds."""
        queue, delivery = self.stolen.pop(0)
        if self._do(self._rivals[queue].settle([delivery.ack()])) == ["done"]:
            self._done_elsewhere[queue].append(delivery.message_id)

    def drain(self, *, grace: float, cancel_grace: float, flush: float) -> None:
        """Begin to leave."""
        self.is_draining = True
        self._draining = self.stepper.home.create_task(self._drain(grace, cancel_grace, flush))
        self.settle()

    async def _drain(self, grace: float, cancel_grace: float, flush: float) -> None:
        held = {claim for _, claim in self.held_claims}
        told = {claim for source in self.sources.values() for claim in source.claims_seen.values()}
        for source in self.sources.values():
            source.may_claim = False
        report = await self.bench.drain(grace=grace, cancel_grace=cancel_grace, flush=flush, hurry=self.hurry)
        new = {claim for source in self.sources.values() for claim in source.claims_seen.values()} - told
        counted = held | {claim for claim in new if self._has_job(claim)}
        settled = [claim.asked[-1].action for claim in counted if claim.outcome is not None]
        lost = sum(claim.is_fenced for claim in counted)
        released = settled.count(Action.RELEASE) + lost
        finished = len(settled) + lost - released
        unread = sum(claim.outcome is not None for claim in new - counted)  # had no handler: counted, or not
        assert report.finished in {finished, finished + unread}, (report, counted)
        assert (released, len(self.held_claims)) == (report.released, report.abandoned), (report, counted)
        self.report = report

    def leave(self) -> None:
        """Drain the worker, if that has not begun, until it has left."""
        if self._draining is None:
            self.drain(grace=0.0, cancel_grace=LAST_STAGE, flush=LAST_STAGE)
        assert self._draining is not None
        deadline = self.stepper.clock() + LONGEST_LEAVING
        while not self._draining.done() and self.stepper.clock() < deadline:
            self.stepper.pass_time(1.0)
        assert self._draining.done(), "the drain has no end"
        self._draining.result()

    def close(self) -> None:
        """End all that runs."""
        try:
            for source in self.sources.values():
                source.mend()
                source.may_claim = True
            self.is_held, self._is_closing = False, True
            for run in self.runs:
                run.is_deaf = False
                if run.end is None and not run.loop.is_closed():
                    run.loop.call_soon_threadsafe(run.give, End.RETURN)
            for loop in self.blocked:
                loop.is_blocked = False
            self.stepper.pass_time(LAST_STAGE)
            for life in self.bench.lives.values():
                life.cancel()
            self.stepper.run(self.bench.__aexit__(None, None, None), within=LONGEST_LEAVING)
        finally:
            self._patches.close()
            self.stepper.close()

    def check_ends(self) -> None:
        """Fail if a message has not come to its one end: acknowledged, a dead letter, or back on the broker."""
        self.stepper.clock.advance(1e6)
        for name, source in self.sources.items():
            rival = self._rivals[name]
            back = [delivery.message_id for delivery in self._do(rival.receive(10_000, 0))]
            dead = [letter.message_id for letter in self._do(rival.dead_letters(limit=10_000))]
            ends = [*source.acknowledged.elements(), *self._done_elsewhere[name], *back, *dead]
            assert sorted(self.sent[name]) == sorted(ends)

    def _is_replaced(self, name: str, claim: Claim) -> bool:
        return claim.successor is not None and not self.bench.intakes[name].holds(claim.delivery)

    def _has_job(self, claim: Claim) -> bool:
        is_readable = claim.delivery.message_id.startswith(("good", "invalid"))
        return is_readable and claim.delivery.crashes < self._max_crashes

    def _do(self, call: Coroutine[Any, Any, T]) -> T:
        """Let somebody else than the worker do something that takes no time; the worker sees it later."""
        while True:
            try:
                waits_for = call.send(None)
            except StopIteration as exc:
                result: T = exc.value
                self.settle()
                return result
            assert waits_for is None, f"{call!r} waits for {waits_for!r}"

    def _order(self, run: Run, order: object) -> None:
        run.loop.call_soon_threadsafe(run.give, order)
        self.settle()

    async def _act(self, context: TaskContext) -> None:
        """Do as ordered; the handler of every good message."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SteppedLoop)
        claim = self._claim_for(context)
        run = claim.run = Run(claim.delivery, loop, is_limited=context.task == "limited")
        self.runs.append(run)
        self._claims[run] = context.queue, claim
        while run.end is None:
            try:
                order = await run.next_order()
            except asyncio.CancelledError:
                run.cancels += 1
                if run.is_deaf:
                    continue
                run.end = End.CANCELLED
                raise
            if order is _BLOCK:
                if not self._is_closing:
                    loop.block()
            elif order is _BE_DEAF:
                run.is_deaf = True
            else:
                run.end = End(str(order))
        if run.end is End.FAIL:
            raise RuntimeError("as ordered")
        if run.end is End.RETRY:
            raise Retry(delay=1.0)
        if run.end is End.REJECT:
            raise Reject("as ordered")

    def _claim_for(self, context: TaskContext) -> Claim:
        task = asyncio.current_task()
        claims = self.sources[context.queue].claims_seen.values()
        for job in self.jobs:
            if job.task is task:
                return next(claim for claim in claims if claim.delivery is job.delivery)
        # Its lease was lost before it could start.
        return next(claim for claim in claims if claim.is_over and claim.delivery.message_id == context.id)
