"""Dispatcher.drain: what becomes of everything that a worker holds when it is asked to leave."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

import pytest

from qbridge import HandlerRegistry, dispatcher, intake
from qbridge.dispatcher import DrainReport
from qbridge.intake import IntakeState
from tests.support.ledger import Ledger, names, send
from tests.support.scripted_source import HANG
from tests.support.waiting import PATIENCE, Latch
from tests.support.worker_bench import WorkerBench


async def bodies(bench: WorkerBench) -> list[tuple[str, int, int]]:
    """Claim what is left in the queue: the name that each message carries, its attempt, and its crashes."""
    deliveries = await bench.producer().receive(100, 0.0)
    found = [(_name(delivery.body), delivery.attempt, delivery.crashes) for delivery in deliveries]
    await bench.producer().settle([delivery.ack() for delivery in deliveries])
    return found


def _name(body: bytes) -> str:
    return body.decode().partition('"args":["')[2].partition('"')[0]


async def test_an_idle_worker_drains_at_once(ledger: Ledger) -> None:
    """A worker that holds nothing waits for nothing, least of all for its grace."""
    async with WorkerBench(ledger.registry, receive_wait=10 * PATIENCE) as bench:
        source = await bench.add()
        await bench.start()
        await bench.until(lambda: source.is_receiving)

        report = await bench.drain(grace=10 * PATIENCE)

        assert DrainReport() == report


async def test_what_has_not_started_is_released_in_order(ledger: Ledger) -> None:
    """Messages that were read ahead go back uncounted, in their order; what runs may end within the grace."""
    async with WorkerBench(ledger.registry, concurrency=1) as bench:
        await bench.add(read_ahead=5)
        await send(bench, "hold", names(8))
        await bench.start()
        await ledger.until_started(1)
        await bench.until(lambda: bench.dispatcher.in_flight == 6)

        draining = asyncio.create_task(bench.drain(grace=PATIENCE))
        await bench.until(lambda: bench.intakes["q"].held == 1)
        ledger.open("00")
        report = await draining

        assert DrainReport(finished=1, released=5) == report
        assert [(name, 1, 0) for name in names(8)[1:]] == await bodies(bench)
        assert ["00"] == ledger.started


async def test_what_blocked_loops_have_not_received_is_released_in_order(ledger: Ledger) -> None:
    """Jobs on their way to loops that don't turn are taken back; the order is that of their claims, over all loops."""
    async with WorkerBench(ledger.registry, threads=2, concurrency=5) as bench:
        source = await bench.add()
        await send(bench, "block", names(2, "block"))
        await bench.start()
        await ledger.until_started(2)
        for part in range(4):
            await send(bench, "hold", names(2, f"{part}-"))
            await bench.until(lambda part=part: bench.dispatcher.in_flight == 4 + 2 * part)  # type: ignore[misc]  # one claim each

        draining = asyncio.create_task(bench.drain(grace=PATIENCE))
        await bench.until(lambda: bench.intakes["q"].held == 2)
        ledger.open(*names(2, "block"))
        report = await draining

        assert DrainReport(finished=2, released=8) == report
        expected = [name for part in range(4) for name in names(2, f"{part}-")]
        assert expected == [
            _name(settlement.delivery.body) for settlement in source.settled if settlement.action == "release"
        ]
        assert [(name, 1, 0) for name in expected] == await bodies(bench)


async def test_when_the_grace_is_over_handlers_are_cancelled_and_released(ledger: Ledger) -> None:
    """A handler cut short gives its message back uncounted."""
    async with WorkerBench(ledger.registry) as bench:
        await bench.add()
        await send(bench, "hold", names(3))
        await bench.start()
        await ledger.until_started(3)
        ledger.open("01")
        await bench.until(lambda: bench.finished)

        report = await bench.drain(grace=0.05)

        assert DrainReport(released=2, cancelled=2) == report
        assert [("00", 1, 0), ("02", 1, 0)] == await bodies(bench)


async def test_hurry_ends_the_grace(ledger: Ledger) -> None:
    """Whoever can't wait cancels the handlers at once, before the drain or in the middle of it."""
    async with WorkerBench(ledger.registry) as bench:
        await bench.add()
        await send(bench, "hold", names(1))
        await bench.start()
        await ledger.until_started(1)
        hurry = asyncio.Event()

        draining = asyncio.create_task(bench.drain(grace=10 * PATIENCE, hurry=hurry))
        await asyncio.sleep(0)
        hurry.set()
        async with asyncio.timeout(PATIENCE):
            report = await draining

        assert DrainReport(released=1, cancelled=1) == report


async def test_a_handler_that_outlives_its_cancellation_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Its lease is left to run out; that it ends after all changes nothing any more."""
    registry = HandlerRegistry()
    running, opened = Latch(), Latch()

    @registry.task
    async def stubborn(name: str) -> None:
        running.set()
        while not opened.is_set:
            try:
                await opened.wait()
            except asyncio.CancelledError:
                continue

    async with WorkerBench(registry) as bench:
        source = await bench.add()
        await send(bench, "stubborn", ["x"])
        await bench.start()
        await running.wait()

        report = await bench.drain(grace=0.0, cancel_grace=0.05)
        opened.set()
        await bench.until(lambda: not bench.threads[0].in_flight)

        assert DrainReport(abandoned=1) == report
        assert ([], 1) == (source.settled, (await bench.producer().stats()).in_flight)
        assert [] == bench.finished
        assert ["handler did not end, it is left behind and its lease runs out"] == [
            record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR
        ]


async def test_an_end_that_does_not_reach_the_broker_is_told(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the broker takes no settlements the drain ends in time, and says how many are left to their leases."""
    monkeypatch.setattr(intake, "CLOSE_TIMEOUT", 0.1)
    async with WorkerBench(ledger.registry) as bench:
        source = await bench.add()
        await send(bench, "work", names(3))
        source.break_("settle", HANG)
        await bench.start()
        await ledger.until_started(3)
        await bench.until(lambda: len(bench.finished) == 3)
        before = monotonic()

        report = await bench.drain(flush=0.05)

        assert DrainReport(abandoned=3) == report
        assert monotonic() - before < PATIENCE


async def test_an_end_while_the_claims_end_counts(ledger: Ledger) -> None:
    """A handler that ends while a slow broker is still asked for its last answer is in the report."""
    gate = Latch()
    async with WorkerBench(ledger.registry) as bench:
        source = await bench.add()
        await send(bench, "hold", names(1))
        source.script("receive", None, gate)
        await bench.start()
        await ledger.until_started(1)
        await bench.until(lambda: source.calls["receive"] == 2)

        draining = asyncio.create_task(bench.drain(grace=PATIENCE))
        ledger.open("00")
        await bench.until(lambda: len(bench.finished) == 1)
        gate.set()
        report = await draining

        assert DrainReport(finished=1) == report


async def test_what_a_last_answer_brings_is_released(ledger: Ledger) -> None:
    """Messages that a claim under way brings after the drain has begun go back at once, and are in the report."""
    gate = Latch()
    async with WorkerBench(ledger.registry) as bench:
        source = await bench.add()
        source.script("receive", gate)
        await bench.start()
        await bench.until(lambda: source.calls["receive"] == 1)

        draining = asyncio.create_task(bench.drain(grace=PATIENCE))
        await send(bench, "hold", names(3))
        gate.set()
        report = await draining

        assert DrainReport(released=3) == report
        assert [(name, 1, 0) for name in names(3)] == await bodies(bench)
        assert [] == ledger.started


async def test_what_a_late_answer_brings_is_released(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that outlasts the wait for it may still bring messages; they go back as long as the drain goes on."""
    monkeypatch.setattr(dispatcher, "_STOP_CLAIMING", 0.01)
    gate = Latch()
    async with WorkerBench(ledger.registry) as bench:
        source = await bench.add()
        await send(bench, "hold", ["running"])
        source.script("receive", None, gate)
        await bench.start()
        await ledger.until_started(1)
        await bench.until(lambda: source.calls["receive"] == 2)

        draining = asyncio.create_task(bench.drain(grace=PATIENCE))
        await asyncio.sleep(0.1)  # longer than the drain waits for the claim
        await send(bench, "hold", names(3))
        gate.set()
        await bench.until(lambda: len(source.settled) == 3)
        ledger.open("running")
        report = await draining

        assert DrainReport(finished=1, released=3) == report
        assert [(name, 1, 0) for name in names(3)] == await bodies(bench)


async def test_what_a_dead_loop_did_not_take_is_released(ledger: Ledger) -> None:
    """Messages claimed for a loop that takes none any more wait in the worker, and go back when it leaves."""
    async with WorkerBench(ledger.registry) as bench:
        await bench.add()
        await bench.start()
        await bench.threads[0].stop(PATIENCE)
        await send(bench, "hold", names(3))
        await bench.until(lambda: bench.dispatcher.in_flight == 3)

        report = await bench.drain(grace=PATIENCE)

        assert DrainReport(released=3) == report
        assert [(name, 1, 0) for name in names(3)] == await bodies(bench)


async def test_a_draining_worker_claims_nothing(ledger: Ledger) -> None:
    """What is sent after the drain has begun stays where it is."""
    async with WorkerBench(ledger.registry) as bench:
        await bench.add()
        await send(bench, "hold", names(1))
        await bench.start()
        await ledger.until_started(1)

        draining = asyncio.create_task(bench.drain(grace=PATIENCE))
        await bench.until(lambda: not bench.sources["q"].is_receiving)
        await send(bench, "hold", ["late"])
        await asyncio.sleep(0.25)  # longer than a claim waits
        ledger.open("00")
        report = await draining

        assert DrainReport(finished=1) == report
        assert [("late", 1, 0)] == await bodies(bench)


async def test_an_outage_does_not_hold_the_drain(ledger: Ledger) -> None:
    """A broker that is gone costs the drain its flush and no more; what it was not told of counts as abandoned only."""
    async with WorkerBench(ledger.registry) as bench:
        source = await bench.add()
        await send(bench, "hold", names(2))
        await bench.start()
        await ledger.until_started(2)
        for method in ("open", "receive", "settle", "keep_alive"):
            source.break_(method, ConnectionError("gone"))
        before = monotonic()

        report = await bench.drain(flush=0.05)

        assert DrainReport(abandoned=2) == report
        assert monotonic() - before < PATIENCE


async def test_the_report_counts_each_delivery_once(ledger: Ledger) -> None:
    """What had ended unsettled when the drain began is in it, and what the broker was not told of is abandoned only."""
    async with WorkerBench(ledger.registry, concurrency=10) as bench:
        source = await bench.add()
        await send(bench, "hold", names(3))
        await send(bench, "work", names(4, "done"))
        source.script("settle", *[HANG] * 1)
        await bench.start()
        await ledger.until_started(7)
        await bench.until(lambda: len(bench.finished) == 4)
        held = bench.intakes["q"].held
        ledger.open("00")
        await bench.until(lambda: len(bench.finished) == 5)

        report = await bench.drain(grace=0.0, flush=0.05)
        source.mend()

    assert (7, 7) == (held, report.finished + report.released + report.abandoned)
    assert 7 == report.abandoned


async def test_a_broker_that_is_back_is_told_before_the_worker_leaves(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a long pause between two openings a drain asks at once: no end is left unsettled if the broker lives."""
    monkeypatch.setattr(intake, "RECONNECT_CAP", 3600.0)
    async with WorkerBench(ledger.registry) as bench:
        source = await bench.add()
        await send(bench, "hold", names(2))
        await bench.start()
        await ledger.until_started(2)
        monkeypatch.setattr(intake, "RECONNECT_BASE", 3600.0)
        source.script("receive", ConnectionError("gone"))
        source.wake()
        await bench.until(lambda: bench.intakes["q"].state is IntakeState.DEGRADED)
        monkeypatch.setattr(intake, "RECONNECT_BASE", 0.01)
        ledger.open("00", "01")
        await bench.until(lambda: len(bench.finished) == 2)

        async with asyncio.timeout(PATIENCE):
            report = await bench.drain()

    assert DrainReport(finished=2) == report
    assert 2 == len(source.settled)


async def test_a_drain_takes_its_three_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that hangs, a deaf handler and a broker that takes no settlement: all of it is within the three times."""
    registry = HandlerRegistry()
    running, opened = Latch(), Latch()

    @registry.task
    async def deaf() -> None:
        running.set()
        while not opened.is_set:
            try:
                await opened.wait()
            except asyncio.CancelledError:
                continue

    async with WorkerBench(registry) as bench:
        source = await bench.add()
        source.script("receive", None, HANG)
        source.break_("settle", HANG)
        await bench.send("deaf", [])
        await bench.start()
        await running.wait()
        await bench.until(lambda: source.calls["receive"] == 2)
        began = monotonic()

        report = await bench.drain(grace=0.3, cancel_grace=0.3, flush=0.3)
        took = monotonic() - began
        opened.set()

    assert DrainReport(abandoned=1) == report
    assert 0.6 <= took < 0.9 + 0.5
