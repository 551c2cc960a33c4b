"""Claims of backends that break the contract: that don't wait, or that ignore being cancelled."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from qbridge import Outgoing, SourceUnavailable, calls, claiming, intake, progress
from qbridge.events import SourceLost
from qbridge.intake import IntakeState
from tests.support.faulty_sources import HastySource, StubbornSource
from tests.support.intake_bench import GONE, IntakeBench
from tests.support.scripted_source import HANG
from tests.support.waiting import PATIENCE


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is given up within a fraction of a second."""
    monkeypatch.setattr(intake, "RECONNECT_BASE", 0.002)
    monkeypatch.setattr(intake, "RECEIVE_MARGIN", 0.1)
    monkeypatch.setattr(intake, "CALL_TIMEOUT", 0.1)
    monkeypatch.setattr(intake, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(progress, "CANCEL_PATIENCE", 0.05)
    monkeypatch.setattr(calls, "CANCEL_PATIENCE", 0.05)


async def test_a_backend_that_does_not_wait_is_asked_less_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A receive that returns at once with nothing is not called in a loop that spins; the log names the backend."""
    monkeypatch.setattr(claiming, "_PAUSE_CAP", 0.2)
    bench = IntakeBench(source=HastySource)
    bench.sink.wait = 5.0
    await bench.start()
    await bench.watch.until(lambda: bench.source.calls["receive"] >= 11)
    asked = bench.source.calls["receive"]

    await asyncio.sleep(0.5)
    asked_more = bench.source.calls["receive"] - asked
    await bench.claim(1)
    await bench.end()

    assert 1 <= asked_more <= 4
    [record] = [record for record in caplog.records if record.name == "qbridge.claiming"]
    assert ("q", "HastySource") == (record.__dict__["queue"], record.__dict__["source"])


async def test_a_backend_that_waits_is_never_slowed(caplog: pytest.LogCaptureFixture) -> None:
    """An empty queue whose source waits as it should is asked again at once, and nothing is told."""
    bench = IntakeBench()
    bench.sink.wait = 0.02
    await bench.start()
    await bench.watch.until(lambda: bench.source.calls["receive"] >= 5)
    before, asked = monotonic(), bench.source.calls["receive"]

    await bench.watch.until(lambda: bench.source.calls["receive"] >= asked + 20)
    took = monotonic() - before
    await bench.end()

    assert took < PATIENCE / 4
    assert [] == [record for record in caplog.records if record.name == "qbridge.claiming"]


@pytest.mark.usefixtures("quick")
async def test_a_receive_that_ignores_being_cancelled_is_left_behind() -> None:
    """The source is opened again and brings messages; what the old receive brings in the end is put back."""
    bench = IntakeBench(source=StubbornSource)
    source = bench.source
    assert isinstance(source, StubbornSource)
    await bench.start()
    [first] = await bench.claim(1)

    source.let_go.set()
    await bench.watch.until(lambda: source.late_result is not None)
    bench.intake.settle(first.ack())
    await bench.watch.until(lambda: "m0" in bench.settled)
    await bench.end()

    [lost, *_] = [event for event in bench.told if isinstance(event, SourceLost)]
    assert "StubbornSource.receive neither returned in time nor let itself be cancelled" in lost.error


@pytest.mark.usefixtures("quick")
async def test_what_a_receive_brings_that_was_left_behind_is_put_back() -> None:
    """Nobody runs it for a connection that was given up; it is released, and claimed again."""
    bench = IntakeBench(source=StubbornSource)
    assert isinstance(bench.source, StubbornSource)
    await bench.start()
    await bench.watch.until(lambda: bench.source.calls["open"] == 2)
    bench.sink.gives_room.clear()  # the receive under way is the last one
    bench.intake._wake_source()
    await bench.watch.until(lambda: not bench.source.is_receiving)
    await bench.producer.send([Outgoing(body=b"", message_id="m0")])

    bench.source.let_go.set()
    await bench.watch.until(lambda: bench.settled)
    stats = await bench.producer.stats()
    await bench.end()

    assert [("m0", "release")] == [(done.delivery.message_id, done.action) for done in bench.source.settled]
    assert (1, 0, []) == (stats.ready, stats.in_flight, bench.sink.deliveries)


@pytest.mark.usefixtures("quick")
async def test_an_opening_that_ignores_being_cancelled_is_left_behind() -> None:
    """Another opening follows, and the queue is worked on."""

    class Stubborn(StubbornSource):
        method = "open"

    bench = IntakeBench(source=Stubborn)
    assert isinstance(bench.source, StubbornSource)
    await bench.start()
    await bench.claim(1)

    bench.source.let_go.set()
    await bench.end()

    assert IntakeState.CLOSED is bench.intake.state


@pytest.mark.usefixtures("quick")
async def test_a_settle_that_ignores_being_cancelled_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settlements are made on the next connection; that the old call ends in the end drops none of the others."""

    class Stubborn(StubbornSource):
        method = "settle"

    bench = IntakeBench(source=Stubborn)
    source = bench.source
    assert isinstance(source, StubbornSource)
    await bench.start()
    first, second = await bench.claim(2)
    bench.intake.settle(first.ack())
    await bench.watch.until(lambda: "m0" in bench.settled)
    monkeypatch.setattr(intake, "CALL_TIMEOUT", 1.0)
    bench.source.script("settle", HANG)
    bench.intake.settle(second.ack())
    await bench.watch.until(lambda: not bench.source.is_scripted("settle"))

    source.let_go.set()
    await bench.watch.until(lambda: source.late_result is not None)
    await bench.watch.until(lambda: bench.settled == ["m0", "m1"])
    await bench.end()

    assert ["m0", "m1"] == bench.settled


@pytest.mark.usefixtures("quick")
async def test_a_close_that_ignores_being_cancelled_holds_nothing() -> None:
    """The intake ends all the same."""

    class Stubborn(StubbornSource):
        method = "close"

    bench = IntakeBench(source=Stubborn)
    assert isinstance(bench.source, StubbornSource)
    await bench.start()
    await bench.claim(1)

    await bench.end()
    bench.source.let_go.set()

    assert IntakeState.CLOSED is bench.intake.state


async def test_a_call_that_is_cancelled_from_within_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that lets an inner cancelling through is opened again after a pause, not at once for ever."""
    monkeypatch.setattr(intake, "RECONNECT_BASE", 0.002)
    bench = IntakeBench()
    bench.source.script("receive", asyncio.CancelledError())  # type: ignore[arg-type]  # no Exception, but raised
    await bench.start()

    await bench.claim(1)
    await bench.end()

    [lost] = [event for event in bench.told if isinstance(event, SourceLost)]
    assert "cancelled from within" in lost.error
    assert lost.delay > 0


async def test_with_fail_fast_an_intake_does_not_wait_for_its_broker() -> None:
    """A first opening that fails ends it, and the error names the queue; the source is closed."""
    bench = IntakeBench(fail_fast=True)
    bench.source.script("open", GONE)
    await bench.start()
    assert bench.life is not None

    with pytest.raises(SourceUnavailable, match="queue 'q' can't be reached: connection refused"):
        await asyncio.wait_for(bench.life, PATIENCE)

    bench.life = None
    assert {"open": 1, "close": 1} == {name: bench.source.calls[name] for name in ("open", "close")}
    assert IntakeState.CLOSED is bench.intake.state


async def test_fail_fast_is_for_the_start_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that was there and goes away is waited for as ever."""
    monkeypatch.setattr(intake, "RECONNECT_BASE", 0.002)
    bench = IntakeBench(fail_fast=True)
    await bench.start()
    await bench.claim(1)
    bench.source.script("open", GONE, GONE)
    bench.source.script("receive", GONE)

    await bench.watch.until(lambda: bench.intake.counts.reconnects == 1)
    await bench.claim(1)
    await bench.end()

    assert 4 == bench.source.calls["open"]
