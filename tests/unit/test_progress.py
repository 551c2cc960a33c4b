"""The watch over a connection: one that brings nothing though messages are ready is made anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from qbridge import Outgoing, QueueStats, SourceUnavailable, intake, progress
from qbridge.events import SourceLost, SourceReady, SourceStalled
from qbridge.intake import IntakeState
from tests.support.faulty_sources import DeafSource
from tests.support.intake_bench import IntakeBench, log_lines
from tests.support.scripted_source import HANG, ScriptedSource


class CountedSource(ScriptedSource):
    """It brings nothing, and counts what it is told to."""

    counts: Iterator[QueueStats]

    async def receive(self, limit: int, wait: float) -> list[object]:  # type: ignore[override]  # always empty
        """Find nothing, in time."""
        self.calls["receive"] += 1
        await asyncio.sleep(wait)
        return []

    async def stats(self) -> QueueStats:
        """Return the next count, and the last one for ever."""
        self.calls["stats"] += 1
        self._changed()
        self.last = next(self.counts, getattr(self, "last", READY))
        return self.last


NOTHING = QueueStats(ready=0, delayed=7, in_flight=3, dead=5)
READY = QueueStats(ready=3, delayed=0, in_flight=0, dead=0)


def counted(*counts: QueueStats) -> type[CountedSource]:
    """Return a source that tells these counts."""

    class Counted(CountedSource):
        def __init__(self, *args: object, **settings: object) -> None:
            super().__init__(*args, **settings)  # type: ignore[arg-type]  # handed on as they came
            self.counts = iter(counts)

    return Counted


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are frequent, and outages over within milliseconds."""
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setattr(progress, "_RECOUNT", 0.1)
    monkeypatch.setattr(intake, "RECONNECT_BASE", 0.002)


async def test_a_connection_that_brings_nothing_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Messages are ready, there is room, nothing arrives: the source is opened again, which is told and counted."""
    caplog.set_level(logging.INFO)
    bench = IntakeBench(source=DeafSource, stalled_after=0.2)
    await bench.start()

    [delivery] = await bench.claim(1)
    await bench.end()

    assert "m0" == delivery.message_id
    assert ["source ready", "source stalled, reconnecting", "source is back"] == log_lines(caplog)
    assert (1, 1) == (bench.intake.counts.stalls, bench.intake.counts.reconnects)
    [stall] = [event for event in bench.told if isinstance(event, SourceStalled)]
    assert ("q", 1) == (stall.queue, stall.ready)
    assert stall.idle >= 0.2
    assert [SourceReady, SourceStalled, SourceLost, SourceReady] == [type(event) for event in bench.told]


async def test_an_empty_queue_is_no_stall() -> None:
    """What is delayed, in flight or dead can't arrive: the queue is counted now and then, and nothing else happens."""
    bench = IntakeBench(source=counted(NOTHING, NOTHING, NOTHING, NOTHING), stalled_after=0.1)
    bench.source.counts = iter([NOTHING] * 1000)  # type: ignore[attr-defined]  # of that kind of source
    await bench.start()

    await bench.watch.until(lambda: bench.source.calls["stats"] >= 3)
    await bench.end()

    assert (1, 0) == (bench.source.calls["open"], bench.intake.counts.stalls)


@pytest.mark.parametrize(
    "second",
    [NOTHING, QueueStats(ready=2, delayed=0, in_flight=0, dead=0, oldest_age=0.01)],
    ids=["gone", "another one"],
)
async def test_what_others_take_is_no_stall(second: QueueStats) -> None:
    """A message that was ready for a moment, and is gone or another one at the second count, was just not for us."""
    counts = [READY, second] * 500
    bench = IntakeBench(source=counted(*counts), stalled_after=0.1)
    await bench.start()

    await bench.watch.until(lambda: bench.source.calls["stats"] >= 4)
    await bench.end()

    assert (1, 0) == (bench.source.calls["open"], bench.intake.counts.stalls)


async def test_an_old_message_is_a_stall() -> None:
    """One that has waited all the while between the two counts was not taken by anybody."""
    old = QueueStats(ready=2, delayed=0, in_flight=0, dead=0, oldest_age=9.0)
    bench = IntakeBench(source=counted(*[old] * 10), stalled_after=0.1)
    await bench.start()

    await bench.watch.until(lambda: bench.source.calls["open"] == 2)
    await bench.end()

    assert bench.intake.counts.stalls >= 1


async def test_without_room_nothing_is_missed() -> None:
    """A worker that has no room asks for nothing, so nothing that doesn't arrive is a stall; it isn't even counted."""
    bench = IntakeBench(source=DeafSource, stalled_after=0.05)
    bench.sink.gives_room.clear()
    await bench.start()
    await bench.producer.send([Outgoing(body=b"", message_id="m0")])
    await bench.watch.until(lambda: bench.intake.state is IntakeState.READY)

    await asyncio.sleep(0.4)  # eight times as long as a stall takes
    counted = bench.source.calls["stats"]
    await bench.end()

    assert (0, 1) == (counted, bench.source.calls["open"])


async def test_the_watch_can_be_turned_off() -> None:
    """With `stalled_after: none` nothing is ever counted."""
    bench = IntakeBench(source=DeafSource, stalled_after=None)
    await bench.start()
    await bench.producer.send([Outgoing(body=b"", message_id="m0")])
    await bench.watch.until(lambda: bench.intake.state is IntakeState.READY)

    await asyncio.sleep(0.4)
    await bench.end()

    assert (0, 1) == (bench.source.calls["stats"], bench.source.calls["open"])


@pytest.mark.parametrize("fault", [HANG, SourceUnavailable("gone")], ids=["hangs", "fails"])
async def test_a_count_that_meets_a_dead_connection_ends_it(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that is lost or doesn't return in time is a lost connection like any other call."""
    monkeypatch.setattr(intake, "CALL_TIMEOUT", 0.1)
    bench = IntakeBench(stalled_after=0.1)
    bench.source.script("stats", fault)
    await bench.start()

    await bench.watch.until(lambda: bench.source.calls["open"] == 2)
    await bench.claim(1)
    await bench.end()

    assert (1, 0) == (bench.intake.counts.reconnects, bench.intake.counts.stalls)


async def test_a_backend_that_can_t_count_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """What can't count may still work: one warning, no further count, no lost connection."""
    bench = IntakeBench(stalled_after=0.05)
    bench.source.break_("stats", ValueError("no such view"))
    await bench.start()
    await bench.watch.until(lambda: bench.source.calls["stats"])

    await asyncio.sleep(0.3)
    await bench.claim(1)
    await bench.end()

    assert (1, 1) == (bench.source.calls["stats"], bench.source.calls["open"])
    assert ["messages can't be counted, a stall would not be seen"] == [
        record.getMessage() for record in caplog.records if record.name == "qbridge.progress"
    ]
