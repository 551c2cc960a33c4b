"""Handlers that ignore their time limit: what becomes of their messages, and of the next run."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass, field

import pytest

from qbridge import Action, HandlerRegistry, RetryPolicy, dispatcher, intake, leases
from qbridge.dispatcher import DrainReport
from qbridge.events import LeaseLost, TimeoutIgnored
from tests.support.intake_bench import GONE
from tests.support.ledger import Ledger, names, send
from tests.support.waiting import PATIENCE, Latch
from tests.support.worker_bench import QUICK, WorkerBench

#: Seconds of the handlers' timeout, and how long they keep their message beyond it.
TIMEOUT, OVERTIME = 0.05, 0.1


@dataclass
class Deaf:
    """Handlers that don't hear that their time is over, and end when they are let go."""

    registry: HandlerRegistry = field(default_factory=HandlerRegistry)
    let_go: Latch = field(default_factory=Latch)
    runs: Counter[str] = field(default_factory=Counter)
    most: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.registry.task(timeout=TIMEOUT, retry=QUICK)(self.deaf)
        self.registry.task(timeout=TIMEOUT, retry=QUICK)(self.threaded)
        self.registry.task(timeout=TIMEOUT, retry=RetryPolicy(max_attempts=1))(self.last)
        self.registry.task(self.unlimited)

    async def deaf(self, name: str) -> None:
        """Swallow cancelling, in the first run."""
        if self._begin(name) == 1:
            while not self.let_go.is_set:
                try:
                    await self.let_go.wait(1e6)
                except asyncio.CancelledError:
                    continue
        self._end()

    def threaded(self, name: str) -> None:
        """Block a thread, in the first run."""
        if self._begin(name) == 1:
            self.let_go.block()
        self._end()

    async def last(self, name: str) -> None:
        """Be deaf, and have no further attempt."""
        await self.deaf(name)

    async def unlimited(self, name: str) -> None:
        """Take long, and be allowed to."""
        self._begin(name)
        await self.let_go.wait()
        self._end()

    def _begin(self, name: str) -> int:
        with self._lock:
            self.runs[name] += 1
            self._at_once += 1
            self.most = max(self.most, self._at_once)
            return self.runs[name]

    def _end(self) -> None:
        with self._lock:
            self._at_once -= 1


@pytest.fixture(autouse=True)
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits are looked at often enough for such short ones."""
    monkeypatch.setattr(leases, "_SHORTEST_LOOK", 0.01)


@pytest.mark.parametrize("task", ["deaf", "threaded"])
async def test_an_attempt_that_ignores_its_timeout_fails_after_its_overtime(
    task: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A coroutine and a plain function alike: the message is tried again by its policy, which is told and counted."""
    deaf = Deaf()
    async with WorkerBench(deaf.registry) as bench:
        source = await bench.add(overtime=OVERTIME)
        await bench.send(task, ["x"])
        await bench.start()

        await bench.until(lambda: source.settled)
        in_flight = bench.threads[0].in_flight
        counts = bench.intakes["q"].counts
        failed = counts.overtimes, counts.failed
        deaf.let_go.set()
        await bench.until(lambda: len(source.settled) == 2)

    first, second = source.settled
    assert (Action.RETRY, Action.ACK) == (first.action, second.action)
    assert "ignored being cancelled" in first.error
    assert (1, (1, 1), 1) == (in_flight, failed, counts.suppressed)
    [told] = [event for event in bench.told if isinstance(event, TimeoutIgnored)]
    assert ("q", task) == (told.queue, told.task)
    assert told.ran >= TIMEOUT + OVERTIME
    assert 0 == first.delivery.crashes == second.delivery.crashes
    assert "handler ignores its timeout, its attempt has failed and it runs on" in caplog.messages


async def test_the_next_run_waits_for_the_end_of_the_deaf_one() -> None:
    """No two runs of one message meet in one worker, though its broker has handed it out again."""
    deaf = Deaf()
    async with WorkerBench(deaf.registry) as bench:
        source = await bench.add(overtime=OVERTIME)
        await bench.send("deaf", ["x"])
        await bench.start()
        await bench.until(lambda: source.settled)

        await bench.until(lambda: bench.intakes["q"].held == 1)
        await asyncio.sleep(0.1)
        runs_meanwhile = deaf.runs["x"]
        deaf.let_go.set()
        await bench.until(lambda: len(source.settled) == 2)

    assert (1, 2, 1) == (runs_meanwhile, deaf.runs["x"], deaf.most)


async def test_a_run_that_waits_for_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier run that never ends costs the message its attempts one after the other, and not its lease for ever."""
    monkeypatch.setattr(dispatcher, "_LONGEST_WAIT", 0.05)
    deaf = Deaf()
    async with WorkerBench(deaf.registry) as bench:
        source = await bench.add(overtime=OVERTIME)
        await bench.send("deaf", ["x"])
        await bench.start()

        await bench.until(lambda: len(source.settled) == 3)
        deaf.let_go.set()

    assert [Action.RETRY, Action.RETRY, Action.DEAD_LETTER] == [done.action for done in source.settled]
    assert ["an earlier run of this message has not ended in this worker"] * 2 == [
        done.error for done in source.settled[1:]
    ]
    assert 1 == deaf.runs["x"]


async def test_the_last_attempt_that_ignores_its_timeout_is_a_dead_letter() -> None:
    """It is exhausted, as after any other failure, and not crashed: no worker has died."""
    deaf = Deaf()
    async with WorkerBench(deaf.registry) as bench:
        source = await bench.add(overtime=OVERTIME)
        await bench.send("last", ["x"])
        await bench.start()

        await bench.until(lambda: source.settled)
        deaf.let_go.set()

    assert [(Action.DEAD_LETTER, "exhausted")] == [(done.action, done.reason) for done in source.settled]


async def test_a_handler_without_a_timeout_may_take_as_long_as_it_likes() -> None:
    """Overtime is for handlers that have a limit: the others keep their message, however long they run."""
    deaf = Deaf()
    async with WorkerBench(deaf.registry) as bench:
        source = await bench.add(overtime=0.01)
        await bench.send("unlimited", ["x"])
        await bench.start()
        await bench.until(lambda: deaf.runs["x"])

        await asyncio.sleep(0.3)
        settled = list(source.settled)
        deaf.let_go.set()
        await bench.until(lambda: source.settled)

    assert ([], [Action.ACK]) == (settled, [done.action for done in source.settled])


async def test_what_waits_for_a_deaf_run_is_released_by_a_drain() -> None:
    """It was not tried; and the deaf handler, whose attempt has failed already, holds the drain no longer."""
    deaf = Deaf()
    async with WorkerBench(deaf.registry) as bench:
        source = await bench.add(overtime=OVERTIME)
        await bench.send("deaf", ["x"])
        await bench.start()
        await bench.until(lambda: source.settled and bench.intakes["q"].held == 1)

        try:
            async with asyncio.timeout(10):
                report = await bench.drain(grace=3600)
        finally:
            deaf.let_go.set()

    assert DrainReport(released=1) == report
    assert [Action.RETRY, Action.RELEASE] == [done.action for done in source.settled]


async def test_the_next_run_waits_for_a_handler_whose_lease_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is slow to hear of the loss ends before the message runs again here; its end is suppressed."""
    deaf = Deaf()
    gate = Latch()
    monkeypatch.setattr(intake, "RECONNECT_BASE", 0.002)
    monkeypatch.setattr(intake, "RECONNECT_CAP", 0.05)
    monkeypatch.setattr(intake, "RECEIVE_MARGIN", 0.1)
    async with WorkerBench(deaf.registry) as bench:
        source = await bench.add(lease=0.3)
        source.script("receive", None, gate)
        source.break_("keep_alive", GONE)
        await bench.send("deaf", ["x"])
        await bench.start()
        await bench.until(lambda: deaf.runs["x"])
        thief = bench.producer()
        thief.lease = 0.3
        [stolen] = await thief.receive(1, PATIENCE)

        source.mend()
        await bench.until(lambda: any(isinstance(event, LeaseLost) for event in bench.told))
        await thief.settle([stolen.release()])
        gate.set()
        await bench.until(lambda: bench.intakes["q"].held == 1)
        deaf.let_go.set()
        await bench.until(lambda: source.settled)

    counts = bench.intakes["q"].counts
    assert (1, 1, 1) == (counts.leases_lost, counts.suppressed, deaf.most)
    assert [Action.ACK] == [done.action for done in source.settled]


async def test_a_blocked_loop_costs_no_lease() -> None:
    """Leases are renewed by the main thread: a handler that blocks its loop for three leases is run once."""
    ledger = Ledger()
    async with WorkerBench(ledger.registry) as bench:
        source = await bench.add(lease=0.3)
        await send(bench, "block", names(1))
        await bench.start()
        await ledger.until_started(1)

        await bench.until(lambda: source.calls["keep_alive"] >= 9)
        stats = await bench.producer().stats()
        ledger.open("00")
        await bench.until_finished(1)

    assert (0, 1) == (stats.ready, stats.in_flight)
    assert (["00"], [Action.ACK]) == (ledger.started, [done.action for done in source.settled])
