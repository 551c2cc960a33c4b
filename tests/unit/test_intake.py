"""Intake: claims, settlements and leases from the opening of a source to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from qbridge import Outgoing, intake
from qbridge.event_hub import EventHub
from qbridge.intake import Intake, IntakeState
from qbridge_memory import MemoryBroker
from tests.support.intake_bench import GONE, IntakeBench, Sink, log_lines
from tests.support.scripted_source import HANG, ScriptedSource
from tests.support.waiting import PATIENCE, Latch, poll


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages are over within milliseconds."""
    monkeypatch.setattr(intake, "RECONNECT_BASE", 0.002)
    monkeypatch.setattr(intake, "CLOSE_TIMEOUT", 0.2)


@pytest.fixture
async def bench() -> AsyncIterator[IntakeBench]:
    """An intake that lives."""
    bench = IntakeBench()
    await bench.start()
    yield bench
    await bench.end()


async def test_a_claimed_delivery_is_held_until_it_is_settled() -> None:
    """An intake claims no more than it may, in order, and holds each delivery until the broker has its settlement."""
    bench = IntakeBench()
    bench.sink.room = 2
    await bench.start()
    deliveries = await bench.claim(3)
    before = bench.intake.held, [bench.intake.holds(delivery) for delivery in deliveries]

    for delivery in deliveries:
        bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: not bench.intake.held)
    await bench.end()

    assert (3, [True] * 3) == before
    assert ["m0", "m1", "m2"] == [delivery.message_id for delivery in deliveries] == bench.settled
    assert {2} == {limit for limit, _ in bench.source.claims}


async def test_settlements_travel_together(bench: IntakeBench) -> None:
    """What is settled in one turn of the loop, or while a settle is under way, is one call, in order."""
    deliveries = await bench.claim(10)

    for delivery in deliveries:
        bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: len(bench.settled) == 10)

    assert [10] == bench.source.settle_sizes
    assert [delivery.message_id for delivery in deliveries] == bench.settled


async def test_what_is_settled_during_a_call_follows_it(bench: IntakeBench) -> None:
    """A settlement that comes while others travel waits for their return, and is not taken for one of them."""
    first, second = await bench.claim(2)
    gate = Latch()
    bench.source.script("settle", gate)
    bench.intake.settle(first.ack())
    await bench.watch.until(lambda: bench.source.calls["settle"])

    bench.intake.settle(second.ack())
    gate.set()
    await bench.watch.until(lambda: not bench.intake.held)

    assert ([1, 1], ["m0", "m1"]) == (bench.source.settle_sizes, bench.settled)


async def test_a_late_settlement_is_counted_not_raised(bench: IntakeBench, caplog: pytest.LogCaptureFixture) -> None:
    """LOST is one warning with the count; nothing is held any more, and the intake goes on."""
    caplog.set_level(logging.INFO)
    deliveries = await bench.claim(3)
    bench.source.forget_claims()

    for delivery in deliveries:
        bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: not bench.intake.held)

    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ("settlements came too late, their messages run again", 3, "q") == (
        record.getMessage(),
        record.__dict__["count"],
        record.__dict__["queue"],
    )
    assert 0 == bench.source.calls["close"]


class UnwakeableSource(ScriptedSource):
    """A source whose wake and close fail, as those of a client that was never connected may."""

    def wake(self) -> None:
        """Fail."""
        raise AttributeError("no client")

    async def close(self) -> None:
        """Fail, after closing."""
        await super().close()
        raise AttributeError("no client")


async def test_a_fault_while_leaving_does_not_stop_the_leaving(caplog: pytest.LogCaptureFixture) -> None:
    """A source that can neither be woken nor closed without an error is left all the same."""
    sink = Sink()
    source = UnwakeableSource(MemoryBroker())
    leaving = Intake("q", source, consumer=sink, events=EventHub())
    life = asyncio.create_task(leaving.run())
    await poll(lambda: leaving.state is IntakeState.READY)

    leaving.stop_claiming()
    await leaving.claims_ended(PATIENCE)
    unsettled = await leaving.finish(1.0)
    await asyncio.wait_for(life, PATIENCE)

    assert (0, IntakeState.CLOSED) == (unsettled, leaving.state)
    assert ["source did not close cleanly"] == log_lines(caplog)


@pytest.mark.parametrize("method", ["open", "settle"])
async def test_a_call_that_hangs_can_t_hold_the_end(bench: IntakeBench, method: str) -> None:
    """`finish` waits no longer than it may, says what was not settled, and `run` ends soon after."""
    assert bench.life is not None
    [delivery] = await bench.claim(1)
    if method == "open":
        bench.source.break_("settle", GONE)
    bench.source.break_(method, HANG)
    bench.intake.settle(delivery.ack())
    calls = bench.source.calls[method]
    await bench.watch.until(lambda: bench.source.calls[method] > calls or (method == "settle" and calls))
    bench.intake.stop_claiming()

    unsettled = await bench.intake.finish(0.05)
    if method == "settle":
        await asyncio.wait_for(asyncio.shield(bench.life), PATIENCE)
    else:  # opening is bounded by the source itself; whoever waits for the end may cancel it
        bench.life.cancel()

    assert 1 == unsettled


async def test_an_idle_broker_is_left_at_once() -> None:
    """Ending doesn't wait for a receive that waits for messages."""
    bench = IntakeBench()
    bench.sink.wait = 10 * PATIENCE
    await bench.start()
    assert bench.life is not None
    await bench.watch.until(lambda: bench.source.calls["receive"])

    bench.intake.stop_claiming()
    await asyncio.wait_for(bench.intake.claims_ended(10 * PATIENCE), PATIENCE)
    unsettled = await bench.intake.finish(PATIENCE)
    await asyncio.wait_for(bench.life, PATIENCE)

    assert (0, IntakeState.CLOSED, False) == (unsettled, bench.intake.state, bench.source._is_open)


async def test_too_much_unsettled_stops_the_claiming(bench: IntakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that settles more slowly than handlers work gets its breath back before more is claimed."""
    monkeypatch.setattr(intake, "MAX_UNSETTLED", 5)
    monkeypatch.setattr(intake, "RECEIVE_MARGIN", 0.1)
    bench.sink.room = 1
    deliveries = await bench.claim(10)
    bench.source.script("settle", HANG)
    for delivery in deliveries:
        bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: len(bench.source.claims) == bench.source.calls["receive"])
    await bench.producer.send([Outgoing(body=b"", message_id="late")])
    await asyncio.sleep(0.3)  # several times as long as a receive waits
    claimed_meanwhile = len(bench.sink.deliveries)

    bench.intake._break()  # as a lost connection does
    await bench.watch.until(lambda: len(bench.sink.deliveries) == 11)

    assert (10, 10) == (claimed_meanwhile, len(bench.settled))


async def test_leases_are_renewed_while_work_goes_on() -> None:
    """A delivery outlives its lease several times over as long as it is held, settled or not."""
    bench = IntakeBench(lease=0.4)
    await bench.start()
    [delivery] = await bench.claim(1)

    await bench.watch.until(lambda: bench.source.calls["keep_alive"] >= 9)  # three leases
    stats = await bench.producer.stats()
    bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: not bench.intake.held)
    await bench.end()

    assert (0, 1) == (stats.ready, stats.in_flight)
    assert (["m0"], []) == (bench.settled, bench.sink.lost)


async def test_a_lost_lease_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """The work on it is stopped, nothing is held any more, and later renewals don't speak of it again."""
    bench = IntakeBench(lease=0.15)
    await bench.start()
    [delivery] = await bench.claim(1)
    [job] = bench.intake.running_jobs()
    bench.source.forget_claims()

    await bench.watch.until(lambda: bench.sink.lost)
    held = bench.intake.holds(delivery)
    await asyncio.sleep(0.2)  # several renewals
    await bench.end()

    # The message comes back to this very intake when its lease has run out, and is lost again.
    assert (False, 1) == (held, bench.sink.lost.count(job))
    assert ["lease lost, the handler is cancelled"] * len(bench.sink.lost) == log_lines(caplog)
