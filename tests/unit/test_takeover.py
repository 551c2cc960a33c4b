"""A fresh loop thread takes over: what becomes of all that the blocked one had, whether it ever turns again or not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from qbridge import LoopFreed, LoopReplaced, TaskFinished, watchdog
from qbridge.loops import LoopThread
from qbridge.watchdog import LoopLimits
from qbridge_memory import ManualClock
from tests.support.ledger import Ledger, logged, names, send, told
from tests.support.waiting import poll
from tests.support.worker_bench import WorkerBench

pytestmark = pytest.mark.usefixtures("quick_heartbeat")

#: A loop thread is given up when its loop has been blocked for half a second, which no busy machine takes from it.
LIMITS = LoopLimits(blocked_after=0.2, replace_after=0.5)


class BlockingLedger(Ledger):
    """A ledger whose handlers block once: when they are tried again they are done at once."""

    def __init__(self) -> None:
        super().__init__()
        self.registry.task(self.block_once)
        self.registry.task(self.work_in_thread)
        self.registry.task(self.fail_in_thread)

    async def block_once(self, name: str) -> None:
        """Block the loop at the gate, the first time."""
        is_first = name not in self.started
        self._start(name)
        if is_first:
            self.gate(name).block()
        self._end(name)

    def work_in_thread(self, name: str) -> None:
        """Wait at the gate, in a worker thread."""
        self._start(name)
        self.gate(name).block()
        self._end(name)

    def fail_in_thread(self, name: str) -> None:
        """Wait at the gate, in a worker thread, and fail."""
        self.work_in_thread(name)
        raise ValueError("no luck")


@pytest.fixture
async def ledger() -> AsyncIterator[BlockingLedger]:
    """Handlers that can be watched; what a test has not let go on goes on at its end."""
    ledger = BlockingLedger()
    yield ledger
    ledger.open(*ledger.started)


def ends(bench: WorkerBench) -> list[tuple[str, str, int, str]]:
    """Return how deliveries ended: task, outcome, attempt, loop thread."""
    return [(event.task, event.outcome, event.attempt, event.loop_thread) for event in told(bench, TaskFinished)]


async def block(bench: WorkerBench, ledger: Ledger, name: str = "culprit", *, replaced: int = 1) -> None:
    """Let a task block the loop until its thread was given up."""
    await send(bench, "block_once", [name])
    await bench.until(lambda: len(told(bench, LoopReplaced)) == replaced)


async def test_what_blocks_has_failed_and_what_it_held_up_is_put_back(
    ledger: BlockingLedger, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempt of the blocking handler counts and its error has the stack; the other attempt doesn't count."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "hold", ["innocent"])
        await bench.start()
        await ledger.until_started(1)
        await block(bench, ledger)

        await ledger.until_started(4)
        ledger.open("innocent")
        await bench.until_finished(4)
        [event] = told(bench, LoopReplaced)
        [line] = logged(caplog, "a blocked loop thread is given up")
        [failure] = [one for one in told(bench, TaskFinished) if one.outcome == "retried"]
        ledger.open("culprit")

        assert [
            ("block_once", "done", 2, "default-1"),
            ("block_once", "retried", 1, "default-0"),
            ("hold", "done", 1, "default-1"),
            ("hold", "released", 1, "default-0"),
        ] == sorted(ends(bench))
        assert ("default-0", "default-1") == (event.loop_thread, event.successor)
        assert (logging.ERROR, "default-0", "default-1") == (line.levelno, line.loop_thread, line.successor)
        assert failure.error.startswith("handler 'block_once' blocked loop thread 'default-0' for ")
        assert "self.gate(name).block()" in failure.error
        assert 1 == bench.watchdog.health.replaced_total


async def test_what_blocks_in_its_last_attempt_is_a_dead_letter(ledger: BlockingLedger) -> None:
    """A handler that always blocks ends as `exhausted`, after as many threads as it has attempts."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await bench.start()
        await send(bench, "block", ["culprit"])
        await bench.until(lambda: len(told(bench, LoopReplaced)) == 3 and not bench.intakes["q"].held)
        [dead] = await bench.producer().dead_letters()
        ledger.open("culprit")

        assert ("exhausted", 3) == (dead.reason, dead.attempts)
        assert [("default-0", "default-1"), ("default-1", "default-2"), ("default-2", "default-3")] == [
            (event.loop_thread, event.successor) for event in told(bench, LoopReplaced)
        ]


async def test_what_the_loop_had_not_received_starts_elsewhere_in_order(ledger: BlockingLedger) -> None:
    """Tasks that lay before the blocked loop, or that it had taken and not begun, run once, with no attempt counted."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "block_once", ["culprit"])
        await send(bench, "work", names(3, "same batch "))  # one claim brings all four
        await bench.start()
        await ledger.until_started(1)
        await send(bench, "work", names(3, "later "))

        await bench.until(lambda: len([end for end in ends(bench) if end[1] == "done"]) == 7)
        ledger.open("culprit")
        await poll(lambda: not bench.group.fenced)

        assert ["culprit", "culprit", *names(3, "later "), *names(3, "same batch ")] == sorted(ledger.started)
        assert {("work", "done", 1, "default-1")} == {end for end in ends(bench) if end[:2] == ("work", "done")}
        later = [name for name in ledger.started if name.startswith("later")]
        assert names(3, "later ") == later


async def test_a_loop_that_turns_again_is_ended_and_settles_nothing(ledger: BlockingLedger) -> None:
    """Its handlers are cancelled, what they come to is dropped, and its thread ends; nothing is left of it."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        source = await bench.add()
        await send(bench, "hold", ["innocent"])
        await bench.start()
        await ledger.until_started(1)
        await block(bench, ledger)
        await ledger.until_started(4)
        [old] = bench.group.fenced
        before = (len(source.settled), bench.group.in_flight, bench.dispatcher.in_flight)

        ledger.open("culprit")
        await poll(lambda: not old.is_alive)
        after = (len(source.settled), bench.group.in_flight, bench.dispatcher.in_flight)
        ended = list(ledger.ended)
        ledger.open("innocent")
        await bench.until_finished(4)

        assert (3, 1, 1) == before == after
        assert ["culprit", "culprit", "innocent"] == sorted(ended)  # the old innocent was cancelled
        assert ((), False, []) == (bench.group.fenced, old.is_wedged, told(bench, LoopFreed))
        assert ["ack", "ack", "release", "retry"] == sorted(settlement.action for settlement in source.settled)


async def test_a_plain_function_works_on_and_is_done_once(ledger: BlockingLedger) -> None:
    """It runs in a thread that nobody blocks: its message stays held, and how it ends counts."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        source = await bench.add(lease=1.0)
        await send(bench, "work_in_thread", ["good"])
        await send(bench, "fail_in_thread", ["bad"])
        await bench.start()
        await ledger.until_started(2)
        await block(bench, ledger)
        await bench.until(lambda: ("block_once", "done", 2, "default-1") in ends(bench))
        renewals = source.calls["keep_alive"]
        await bench.until(lambda: source.calls["keep_alive"] > renewals + 4)  # longer than a lease
        held, in_flight = bench.intakes["q"].held, bench.dispatcher.in_flight

        ledger.open("good", "bad")
        await bench.until_finished(5)
        ledger.open("culprit")

        assert (2, 2) == (held, in_flight)
        assert 1 == ledger.started.count("good")
        assert [("fail_in_thread", "retried", 1, "default-0"), ("work_in_thread", "done", 1, "default-0")] == sorted(
            end for end in ends(bench) if "thread" in end[0] and end[2] == 1
        )


async def test_a_plain_function_that_waited_for_a_thread_runs_elsewhere(ledger: BlockingLedger) -> None:
    """One that had not begun when its loop was given up is put back untried."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "work_in_thread", names(5))  # the loop thread has four worker threads
        await bench.start()
        await ledger.until_started(4)
        await block(bench, ledger)

        await ledger.until_started(7)
        started = list(ledger.started)
        ledger.open(*names(5))
        await bench.until_finished(8)
        ledger.open("culprit")

        assert [1] * 5 == [started.count(name) for name in names(5)]
        assert [("released", "default-0"), ("done", "default-1")] == [
            (event.outcome, event.loop_thread)
            for event in told(bench, TaskFinished)
            if event.outcome == "released" or (event.task == "work_in_thread" and event.loop_thread == "default-1")
        ]


async def test_a_drain_waits_for_a_plain_function_of_a_thread_that_was_given_up(ledger: BlockingLedger) -> None:
    """It is work under way like any other, while the wedged loop itself holds nothing up."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "work_in_thread", ["slow"])
        await bench.start()
        await ledger.until_started(1)
        await block(bench, ledger)
        await bench.until(lambda: bench.intakes["q"].held == 1)

        draining = asyncio.create_task(bench.drain(grace=20.0))
        await bench.until(lambda: bench.dispatcher.is_draining)
        ledger.open("slow")
        report = await draining
        ledger.open("culprit")

        assert (1, 0, 0) == (report.finished, report.released, report.abandoned)


async def test_a_plain_function_that_does_not_end_is_abandoned_by_a_drain(ledger: BlockingLedger) -> None:
    """It can't hold the exit, and is told as work that was left behind."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "work_in_thread", ["endless"])
        await bench.start()
        await ledger.until_started(1)
        await block(bench, ledger)
        await bench.until(lambda: bench.intakes["q"].held == 1)

        report = await bench.drain(cancel_grace=0.05)
        ledger.open("endless", "culprit")

        assert (0, 0, 1) == (report.finished, report.released, report.abandoned)


async def test_a_drain_gives_up_a_blocked_loop_too(ledger: BlockingLedger) -> None:
    """A worker that leaves doesn't wait for its whole grace for a loop that is given up, and starts no other."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "hold", ["innocent"])
        await bench.start()
        await ledger.until_started(1)
        await send(bench, "block", ["culprit"])
        await ledger.until_started(2)

        async with asyncio.timeout(10.0):
            report = await bench.drain(grace=60.0)
        ledger.open("culprit")

        assert (1, 1, 1, 0) == (report.finished, report.released, report.cancelled, report.abandoned)
        assert ([""], ()) == ([event.successor for event in told(bench, LoopReplaced)], bench.group.threads)


async def test_a_lease_that_was_lost_holds_nothing(ledger: BlockingLedger) -> None:
    """A message that is another worker's by now is not settled, and not counted as work under way."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        source = await bench.add()
        await bench.start()
        await send(bench, "block", ["culprit"])
        await ledger.until_started(1)
        [job] = bench.intakes["q"].running_jobs()

        bench.intakes["q"].forget(job.delivery)
        bench.dispatcher.lose(job)
        await bench.until(lambda: told(bench, LoopReplaced))
        in_flight = bench.dispatcher.in_flight
        ledger.open("culprit")

        assert (0, []) == (in_flight, source.settled)


async def test_threads_that_were_given_up_are_bounded(
    ledger: BlockingLedger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many wedged threads as may be, a blocked loop stays; that is told once, until one of them has ended."""
    monkeypatch.setattr(watchdog, "MAX_FENCED", 1)
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await bench.start()
        await block(bench, ledger, "first")
        await send(bench, "block_once", ["second"])

        await poll(lambda: bench.watchdog.health.is_exhausted)
        await asyncio.sleep(0.6)  # time to replace it, or to tell it again
        exhausted = logged(caplog, "too many loop threads are blocked, none takes over any more")
        replaced = len(told(bench, LoopReplaced))
        ledger.open("first")
        await bench.until(lambda: len(told(bench, LoopReplaced)) == 2)
        ledger.open("second")
        await poll(lambda: not bench.watchdog.health.is_exhausted)

        assert ([("default-1", 1)], 1) == ([(line.loop_thread, line.given_up) for line in exhausted], replaced)


async def test_a_thread_that_can_t_be_started_is_tried_again(
    ledger: BlockingLedger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the system has no thread to give, the blocked one stays in its place."""
    start = LoopThread.start

    async def refuse_once(thread: LoopThread) -> None:
        if thread.name == "default-1":
            raise RuntimeError("can't start new thread")
        await start(thread)

    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await bench.start()
        monkeypatch.setattr(LoopThread, "start", refuse_once)

        await block(bench, ledger)
        ledger.open("culprit")
        # asyncio's own complaints, of what other tests have left to the collector, are not the worker's.
        errors = [each for each in caplog.records if each.levelno == logging.ERROR and each.name.startswith("qbridge")]
        line = errors[0]

        assert "no loop thread can be started for a blocked one" == line.getMessage()
        assert ["default-2"] == [event.successor for event in told(bench, LoopReplaced)]


async def test_other_loops_of_the_group_go_on(ledger: BlockingLedger) -> None:
    """While one loop is blocked and replaced, what runs on the other is not touched."""
    async with WorkerBench(ledger.registry, threads=2, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "hold", ["other"])
        await bench.start()
        await ledger.until_started(1)
        await block(bench, ledger)
        await bench.until(lambda: len(bench.finished) == 2)
        ledger.open("other", "culprit")
        await bench.until_finished(3)

        assert ("hold", "done", 1) in [end[:3] for end in ends(bench)]
        assert 1 == ledger.started.count("other")
        assert 2 == len(bench.group.threads)


async def test_a_suspect_that_blocks_holds_nobody_up(ledger: BlockingLedger) -> None:
    """A message that runs alone, as it may have killed its worker, is given up like any other; then others go on."""
    clock = ManualClock()
    async with WorkerBench(ledger.registry, limits=LIMITS, clock=clock) as bench:
        await bench.add()
        await send(bench, "block_once", ["culprit"])
        for _ in range(2):  # it crashes two workers
            assert await bench.producer().receive(1, 0.0)
            clock.advance(31.0)
        await bench.start()
        await ledger.until_started(1)
        await send(bench, "work", names(3))

        await bench.until(lambda: told(bench, LoopReplaced))
        clock.advance(1.0)  # the pause before the next attempt
        await bench.until(lambda: len([end for end in ends(bench) if end[1] == "done"]) >= 3)
        ledger.open("culprit")

        assert names(3) == [name for name in ledger.started if name != "culprit"]
