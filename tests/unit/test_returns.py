"""Deliveries that come back to the worker that works on them, or has ended its work: nothing is run twice."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from qbridge import Action, Delivery, HandlerRegistry, Outgoing, TaskMessage, intake, returns
from qbridge.codec import JsonCodec
from qbridge.endings import Endings
from qbridge.event_hub import EventHub
from qbridge.returns import Returns
from qbridge_memory import ManualClock
from tests.support.faulty_sources import TiedSource
from tests.support.intake_bench import GONE, IntakeBench
from tests.support.jobs import make_job
from tests.support.ledger import Ledger, names, send
from tests.support.waiting import Latch
from tests.support.worker_bench import QUICK, WorkerBench


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages are over within milliseconds."""
    monkeypatch.setattr(intake, "RECONNECT_BASE", 0.002)


@pytest.fixture
async def tied(ledger: Ledger) -> AsyncIterator[WorkerBench]:
    """A worker whose messages are in flight as long as its connection."""
    clock = ManualClock()
    async with WorkerBench(ledger.registry, clock=clock) as bench:
        source = await bench.add(new_source=TiedSource)
        assert isinstance(source, TiedSource)
        source.clock = clock
        yield bench


async def lose_connection(bench: WorkerBench) -> None:
    """Cut the connection, and wait until the source is open again and has been asked for messages."""
    source, counts = bench.sources["q"], bench.intakes["q"].counts
    before = counts.reconnects
    source.script("receive", GONE)
    source.wake()
    await bench.until(lambda: counts.reconnects > before and source.is_receiving)


async def test_outages_during_a_long_handler_cost_nothing(ledger: Ledger, tied: WorkerBench) -> None:
    """As many lost connections as would make it a killer: its one run goes on, and its end is acknowledged."""
    source, counts = tied.sources["q"], tied.intakes["q"].counts
    await send(tied, "hold", names(2))
    await tied.start()
    await ledger.until_started(2)

    for outage in range(1, 5):
        await lose_connection(tied)
        await tied.until(lambda outage=outage: counts.resumed == 2 * outage)  # type: ignore[misc]  # one condition each
    ledger.open("00", "01")
    await tied.until_finished(2)
    stats = await tied.producer().stats()

    assert (["00", "01"], 8, 0) == (ledger.started, counts.resumed, counts.late)
    assert [(Action.ACK, 4), (Action.ACK, 4)] == [(done.action, done.delivery.crashes) for done in source.settled]
    assert (0, 0, 0) == (stats.ready, stats.in_flight, stats.dead)


async def test_what_ended_during_an_outage_is_not_run_again(ledger: Ledger, tied: WorkerBench) -> None:
    """The message comes back, and is settled as its handler had ended."""
    source, counts = tied.sources["q"], tied.intakes["q"].counts
    await send(tied, "hold", names(1))
    await tied.start()
    await ledger.until_started(1)
    source.break_("settle", GONE)
    ledger.open("00")
    await tied.until(lambda: counts.reconnects >= 1 and tied.intakes["q"].unsettled)

    source.mend()
    await tied.until(lambda: source.settled)
    stats = await tied.producer().stats()

    assert ["00"] == ledger.started
    assert [Action.ACK] == [done.action for done in source.settled]
    assert (0, 0, 0) == (stats.ready, stats.in_flight, stats.dead)


async def test_a_failure_goes_on_from_the_delivery_that_came_back() -> None:
    """A handler that fails after an outage is tried again: its settlement is for the delivery that is ours."""
    clock, registry = ManualClock(), HandlerRegistry()
    runs: list[str] = []
    started, opened = Latch(), Latch()

    @registry.task(retry=QUICK)
    async def fail_once(name: str) -> None:
        runs.append(name)
        if len(runs) == 1:
            started.set()
            await opened.wait()
            raise ValueError("no")

    async with WorkerBench(registry, clock=clock) as bench:
        source, counts = await bench.add(new_source=TiedSource), bench.intakes["q"].counts
        assert isinstance(source, TiedSource)
        source.clock = clock
        await bench.send("fail_once", ["x"])
        await bench.start()
        await started.wait()
        await lose_connection(bench)
        await bench.until(lambda: counts.resumed == 1)

        opened.set()
        await bench.until(lambda: source.settled)
        clock.advance(1)
        await bench.until(lambda: len(source.settled) == 2)

    assert [Action.RETRY, Action.ACK] == [done.action for done in source.settled]
    assert (["x", "x"], 0) == (runs, counts.late)


async def test_what_had_not_started_on_a_lost_connection_is_not_started(ledger: Ledger) -> None:
    """Where the connection is the lease, a message that waits for its turn is another worker's when it has ended."""
    clock, gate = ManualClock(), Latch()
    async with WorkerBench(ledger.registry, clock=clock, concurrency=1) as bench:
        source, counts = await bench.add(new_source=TiedSource, read_ahead=2), bench.intakes["q"].counts
        assert isinstance(source, TiedSource)
        source.clock = clock
        await send(bench, "hold", names(3))
        await bench.start()
        await ledger.until_started(1)
        await bench.until(lambda: bench.intakes["q"].held == 3)
        source.script("open", gate)
        bench.intakes["q"]._break()  # as a lost connection does
        await bench.until(lambda: source.calls["open"] == 2)
        stolen = await bench.producer().receive(3, 0)

        gate.set()
        await bench.until(lambda: counts.leases_lost == 2)
        ledger.open("00")
        await bench.until(lambda: counts.late == 1 and not bench.threads[0].in_flight)

    assert (3, ["00"], []) == (len(stolen), ledger.started, source.settled)


async def test_a_lease_that_ran_out_unnoticed_costs_nothing_if_the_message_comes_back_here(ledger: Ledger) -> None:
    """As after the whole machine has slept: the run goes on for the new delivery, and is acknowledged."""
    clock = ManualClock()
    async with WorkerBench(ledger.registry, clock=clock) as bench:
        source = await bench.add(lease=30.0)
        await send(bench, "hold", names(1))
        await bench.start()
        await ledger.until_started(1)

        clock.advance(31)
        await bench.until(lambda: bench.intakes["q"].counts.resumed == 1)
        ledger.open("00")
        await bench.until_finished(1)

    assert (["00"], [Action.ACK]) == (ledger.started, [done.action for done in source.settled])


async def test_another_message_of_that_name_is_run() -> None:
    """Same name, other bytes: whoever named it so, it is a message of its own."""
    clock, registry = ManualClock(), HandlerRegistry()
    seen: list[str] = []
    opened = Latch()

    @registry.task
    async def note(name: str) -> None:
        seen.append(name)
        await opened.wait()

    async with WorkerBench(registry, clock=clock) as bench:
        source = await bench.add(lease=30.0)
        await bench.start()
        for name in ("a", "b"):
            body = JsonCodec().encode(TaskMessage(id="m", task="note", args=[name]))
            await bench.producer().send([Outgoing(body=body, message_id="m")])
        await bench.until(lambda: len(seen) == 2)

        clock.advance(31)
        await bench.until(lambda: bench.intakes["q"].counts.resumed)
        opened.set()
        await bench.until(lambda: not bench.intakes["q"].held)

    bodies = {done.delivery.body for done in source.settled}
    assert 2 == len(bodies), "both were acknowledged"


def delivery(name: str, *, crashes: int = 0, body: bytes = b"x", enqueued_at: float | None = 1.0) -> Delivery:
    """Return a delivery of a message that has crashed so often."""
    return Delivery(
        body=body,
        receipt=object(),
        message_id=name,
        attempt=1 + crashes,
        crashes=crashes,
        enqueued_at=enqueued_at,
    )


def test_an_end_is_told_once() -> None:
    """A message that comes back twice is run the second time: one end is for one delivery."""
    known = Returns()
    known.note_late(delivery("m").ack())

    first = known._ended_before(delivery("m", crashes=1))
    second = known._ended_before(delivery("m", crashes=2))

    assert first is not None
    assert (Action.ACK, None) == (first.action, second)


@pytest.mark.parametrize(
    "comes",
    [
        delivery("other", crashes=1),
        delivery("m", crashes=1, body=b"y"),
        delivery("m", crashes=1, enqueued_at=2.0),
        delivery("m", crashes=0),
    ],
    ids=["name", "bytes", "sent at another time", "sent anew"],
)
def test_an_end_is_for_the_same_message_only(comes: Delivery) -> None:
    """Its name, its bytes, its time and one crash more: all must fit, or it is run."""
    known = Returns()
    known.note_late(delivery("m").ack())

    assert known._ended_before(comes) is None


def test_a_message_without_a_time_is_not_remembered() -> None:
    """Where a broker knows no time, messages of one name may be many."""
    known = Returns()
    known.note_late(delivery("m", enqueued_at=None).ack())

    assert known._ended_before(delivery("m", crashes=1, enqueued_at=None)) is None


def test_what_was_not_tried_is_not_remembered() -> None:
    """A release that came too late says nothing about the message."""
    known = Returns()
    known.note_late(delivery("m").release())

    assert known._ended_before(delivery("m", crashes=1)) is None


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest ends are forgotten, and those of long ago."""
    monkeypatch.setattr(returns, "MAX_REMEMBERED", 2)
    known = Returns()
    for name in "abc":
        known.note_late(delivery(name).ack())

    told = [known._ended_before(delivery(name, crashes=1)) is not None for name in "abc"]
    known.note_late(delivery("d").ack())
    monkeypatch.setattr(returns, "REMEMBERED_FOR", -1.0)
    late = known._ended_before(delivery("d", crashes=1))

    assert ([False, True, True], None) == (told, late)


async def test_an_end_that_was_decided_before_the_return_is_for_the_new_delivery() -> None:
    """A handler that ended while its message came back has settled the old delivery: the new one is settled so."""
    bench = IntakeBench()
    job, new = make_job(names), delivery("m", crashes=1)
    job.settlement, job.delivery, job.owner = job.delivery.ack(), new, bench.intake
    bench.intake.hold(new, job)

    Endings(EventHub()).settle(job)

    assert [(new, Action.ACK)] == [(done.delivery, done.action) for done in bench.intake.unsettled]
