"""Intake: what becomes of claims and settlements when a broker fails, hangs and comes back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from qbridge import SourceMisconfigured, intake, outages, settling
from qbridge.events import SourceLost, SourceReady
from qbridge.intake import IntakeState
from tests.support.intake_bench import GONE, IntakeBench, log_lines
from tests.support.scripted_source import HANG
from tests.support.waiting import PATIENCE


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


@pytest.mark.parametrize("method", ["receive", "settle", "keep_alive"])
async def test_a_lost_connection_is_opened_again(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whichever call meets the loss: the source is closed and opened, and what was to be settled is settled."""
    caplog.set_level(logging.INFO)
    bench = IntakeBench(lease=0.3)
    await bench.start()
    deliveries = await bench.claim(2)
    bench.source.script(method, GONE)

    bench.intake.settle(deliveries[0].ack())
    await bench.watch.until(lambda: bench.source.calls["open"] == 2 and bench.settled)
    bench.intake.settle(deliveries[1].ack())
    await bench.watch.until(lambda: bench.settled == ["m0", "m1"])
    await bench.claim(1)
    await bench.end()

    assert {"close": 2, "open": 2} == {name: bench.source.calls[name] for name in ("close", "open")}
    assert ["source ready", "source lost, reconnecting", "source is back"] == log_lines(caplog)
    assert [SourceReady, SourceLost, SourceReady] == [type(event) for event in bench.told]


async def test_an_outage_is_two_lines_however_long_it_lasts(
    bench: IntakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    """Five failed openings are one loss and one return; listeners hear of each attempt."""
    await bench.watch.until(lambda: bench.source.is_receiving)
    caplog.set_level(logging.INFO)
    bench.source.script("receive", GONE)
    bench.source.script("open", *[GONE] * 5)
    [delivery] = await bench.claim(1)
    await bench.watch.until(lambda: bench.intake.state is IntakeState.DEGRADED)

    bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: bench.settled)

    assert ["source lost, reconnecting", "source is back"] == log_lines(caplog)
    assert "connection refused" == caplog.records[0].__dict__["error"]
    assert caplog.records[1].__dict__["outage"] > 0
    assert 6 == sum(isinstance(event, SourceLost) for event in bench.told)
    assert {7} == {bench.source.calls["open"]}


async def test_a_broker_that_is_not_there_at_first_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """A worker may be started before its broker."""
    caplog.set_level(logging.INFO)
    bench = IntakeBench()
    bench.source.script("open", GONE, GONE)

    await bench.start()
    await bench.claim(1)
    await bench.end()

    assert ["source lost, reconnecting", "source is back"] == log_lines(caplog)


async def test_a_flapping_connection_does_not_fill_the_log(
    bench: IntakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that opens and breaks at once, again and again, is told of once, and tried ever more seldom."""
    await bench.watch.until(lambda: bench.intake.state is IntakeState.READY)
    caplog.set_level(logging.INFO)
    bench.source.break_("receive", GONE)

    await bench.watch.until(lambda: bench.source.calls["open"] >= 8)

    assert ["source lost, reconnecting", "source is back"] == log_lines(caplog)
    delays = [event.delay for event in bench.told if isinstance(event, SourceLost)]
    assert delays[-1] > 8 * delays[0]


async def test_a_connection_that_was_steady_is_opened_again_soon(
    bench: IntakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What worked between two losses does not wait for its return as one that breaks at once does."""
    monkeypatch.setattr(intake, "STEADY", 0.0)
    bench.source.break_("receive", GONE)

    await bench.watch.until(lambda: bench.source.calls["open"] >= 8)

    delays = [event.delay for event in bench.told if isinstance(event, SourceLost)]
    assert max(delays) <= intake.RECONNECT_BASE


async def test_an_outage_soon_after_another_is_told_if_it_lasts(
    bench: IntakeBench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long outage is never silent, though the source was lost a moment before."""
    caplog.set_level(logging.INFO)
    bench.source.script("receive", GONE)
    await bench.watch.until(lambda: "source is back" in log_lines(caplog))
    caplog.clear()
    monkeypatch.setattr(outages, "LASTING", 0.05)  # an outage over this long has lasted

    bench.source.break_("open", GONE)
    bench.source.script("receive", GONE)
    await bench.watch.until(lambda: log_lines(caplog))
    opened = bench.source.calls["open"]
    await bench.watch.until(lambda: bench.source.calls["open"] > opened + 2)
    bench.source.mend()
    await bench.watch.until(lambda: len(log_lines(caplog)) == 2)

    assert ["source lost, reconnecting", "source is back"] == log_lines(caplog)
    assert caplog.records[-1].__dict__["outage"] > 0.05


async def test_a_loss_is_met_even_if_a_receive_hangs(bench: IntakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receive on a dead connection is given up as soon as another call has met the loss."""
    monkeypatch.setattr(intake, "RECEIVE_MARGIN", 0.1)
    [delivery] = await bench.claim(1)
    bench.sink.wait = 10 * PATIENCE
    bench.source.script("receive", HANG)
    await bench.watch.until(lambda: not bench.source.is_scripted("receive"))
    bench.source.script("settle", GONE)

    bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: bench.settled)
    await bench.claim(1)

    assert 2 == bench.source.calls["open"]


async def test_settlements_wait_for_the_return(bench: IntakeBench) -> None:
    """What ends during an outage is settled after it, once, in order; nothing is forgotten."""
    deliveries = await bench.claim(5)
    bench.source.break_("open", GONE)
    bench.source.break_("settle", GONE)

    for delivery in deliveries[:2]:
        bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: bench.source.calls["open"] >= 3)
    for delivery in deliveries[2:]:
        bench.intake.settle(delivery.ack())
    held = bench.intake.held
    bench.source.mend()
    await bench.watch.until(lambda: not bench.intake.held)

    assert (5, ["m0", "m1", "m2", "m3", "m4"]) == (held, bench.settled)


async def test_what_a_person_must_repair_ends_the_intake(bench: IntakeBench) -> None:
    """A broker that refuses what was configured is not tried again; the source is closed."""
    assert bench.life is not None
    bench.source.script("receive", SourceMisconfigured("no such queue"))

    with pytest.raises(SourceMisconfigured, match="no such queue"):
        await bench.life

    assert {"open": 1, "close": 1} == {name: bench.source.calls[name] for name in ("open", "close")}
    bench.life = None


@pytest.mark.parametrize("method", ["open", "receive", "settle", "keep_alive"])
async def test_a_backend_s_own_fault_is_survived(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that should not have crossed the contract is a lost connection, and its traceback is logged."""
    bench = IntakeBench(lease=0.3)
    bench.source.script(method, ZeroDivisionError("oops"))

    await bench.start()
    [delivery] = await bench.claim(1)
    await bench.watch.until(lambda: method != "keep_alive" or bench.source.calls["open"] == 2)
    bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: not bench.intake.held and bench.source.calls["open"] == 2)
    await bench.end()

    [record] = [record for record in caplog.records if record.getMessage() == "source lost, reconnecting"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


@pytest.mark.parametrize("method", ["open", "receive", "settle", "keep_alive"])
async def test_a_call_that_hangs_is_a_dead_connection(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that doesn't return in time is given up, the source opened again, and all is settled."""
    monkeypatch.setattr(intake, "CALL_TIMEOUT", 0.1)
    monkeypatch.setattr(intake, "RECEIVE_MARGIN", 0.1)
    bench = IntakeBench(lease=1.0)
    bench.source.script(method, HANG)

    await bench.start()
    [delivery] = await bench.claim(1)
    await bench.watch.until(lambda: method != "keep_alive" or bench.source.calls["open"] == 2)
    bench.intake.settle(delivery.ack())
    await bench.watch.until(lambda: not bench.intake.held and bench.source.calls["open"] == 2)
    await bench.end()

    [record] = [record for record in caplog.records if record.getMessage() == "source lost, reconnecting"]
    assert "did not return" in record.__dict__["error"]
    assert ["m0"] == bench.settled


async def test_leases_are_looked_at_right_after_an_outage() -> None:
    """A lease that ran out while the broker was away is known at the return, not a third of a lease later."""
    bench = IntakeBench(lease=30.0)
    await bench.start()
    [_] = await bench.claim(1)
    bench.source.forget_claims()
    bench.source.script("receive", GONE)

    await bench.watch.until(lambda: bench.sink.lost, timeout=5.0)
    await bench.end()

    assert 2 == bench.source.calls["open"]


async def test_what_has_gathered_is_settled_in_bounded_batches(
    bench: IntakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an outage the broker gets what waits a batch at a time, in order, however much that is."""
    monkeypatch.setattr(settling, "MAX_SETTLE", 4)
    deliveries = await bench.claim(10)
    bench.source.script("receive", GONE)
    bench.source.script("open", *[GONE] * 3)
    bench.source.wake()
    await bench.watch.until(lambda: bench.intake.state is IntakeState.DEGRADED)
    for delivery in deliveries:
        bench.intake.settle(delivery.ack())

    await bench.watch.until(lambda: not bench.intake.held)

    assert [4, 4, 2] == bench.source.settle_sizes
    assert [delivery.message_id for delivery in deliveries] == bench.settled
