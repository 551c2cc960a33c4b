"""Sender: what shares a round trip, who is told of an error, and when its source is opened and closed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence

import pytest

from qbridge import (
    BridgeStateError,
    Outgoing,
    SourceClosed,
    SourceFull,
    SourceMisconfigured,
    SourceUnavailable,
    sender,
)
from qbridge.codec import JsonCodec
from qbridge.sender import Sender
from qbridge_memory import MemoryBroker
from tests.support.scripted_source import HANG, ScriptedSource, claimed_ids
from tests.support.waiting import PATIENCE, Latch, Watch


class Bench:
    """A sender over a scripted source."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.broker = MemoryBroker()
        self.source = ScriptedSource(self.broker, changed=self.watch.changed)
        self.sender = Sender("orders", self.source, codec=JsonCodec(), max_message_size=200)

    async def sent(self) -> list[str]:
        """Claim what has reached the queue; return the ids in order."""
        return await claimed_ids(self.broker)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A sender."""
    bench = Bench()
    yield bench
    bench.source.mend()
    await bench.sender.close()


def outgoing(*names: str) -> list[Outgoing]:
    """Return a message for each name."""
    return [Outgoing(body=b"{}", message_id=name) for name in names]


async def all_errors(*sends: asyncio.Future[None]) -> list[BaseException | None]:
    """Return how each send ended."""
    return await asyncio.gather(*sends, return_exceptions=True)


async def test_sends_that_overlap_share_a_round_trip(bench: Bench) -> None:
    """What is sent while a call is under way goes in the next one, all together and in order."""
    gate = Latch()
    bench.source.script("send", gate)
    first = bench.sender.send(outgoing("a"))
    await bench.watch.until(lambda: bench.source.calls["send"])

    others = [bench.sender.send(outgoing(f"{name}1", f"{name}2")) for name in "bcd"]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *others)

    assert [1, 6] == bench.source.send_sizes
    assert ["a", "b1", "b2", "c1", "c2", "d1", "d2"] == await bench.sent()


async def test_a_hundred_sends_in_one_turn_of_the_loop_are_one_call(bench: Bench) -> None:
    """Programs that send one by one from many tasks don't pay a round trip for each."""
    await asyncio.gather(*(bench.sender.send(outgoing(f"{index}")) for index in range(100)))

    assert [100] == bench.source.send_sizes
    assert 1 == bench.source.calls["open"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio has no eager tasks before 3.12")
async def test_a_loop_with_eager_tasks_sends_too(bench: Bench) -> None:
    """The first send is under way before it returns; those that come meanwhile share the next call."""
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # as above
    gate = Latch()
    bench.source.script("send", gate)

    sends = [bench.sender.send(outgoing(f"{index}")) for index in range(100)]
    gate.set()
    await asyncio.gather(*sends)

    assert [1, 99] == bench.source.send_sizes
    assert [str(index) for index in range(100)] == await bench.sent()


async def test_a_lone_send_goes_at_once(bench: Bench) -> None:
    """Nothing waits for company: the call is made in the next turn of the loop."""
    await bench.sender.send(outgoing("a"))

    sent = bench.sender.send(outgoing("b"))
    await asyncio.sleep(0)
    calls = bench.source.calls["send"]
    await sent

    assert 2 == calls


async def test_a_call_has_a_bounded_size(bench: Bench) -> None:
    """A long list travels in parts; short ones are not torn to fill a call."""
    gate = Latch()
    bench.source.script("send", gate)
    sizes = (1, 600, 400, 600, 2500)
    sends = []
    for number, size in enumerate(sizes):
        sends.append(bench.sender.send(outgoing(*(f"{number}-{index}" for index in range(size)))))
        await bench.watch.until(lambda: bench.source.calls["send"])
    gate.set()
    await asyncio.gather(*sends)

    assert [1, 1000, 600, 1000, 1000, 500] == bench.source.send_sizes
    assert [f"{number}-{index}" for number, size in enumerate(sizes) for index in range(size)] == await bench.sent()


async def test_a_call_has_bounded_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large messages travel in several calls, within one send and over several; one that is larger goes alone."""
    monkeypatch.setattr(sender, "MAX_BYTES", 100)
    bodies = [b"%d" % number * size for number, size in enumerate((60, 40, 1, 150, 50, 50), start=1)]
    messages = [Outgoing(body=body, message_id=str(number)) for number, body in enumerate(bodies)]

    await asyncio.gather(bench.sender.send(messages), *(bench.sender.send([message]) for message in messages))

    assert [2, 1, 1, 2] * 2 == bench.source.send_sizes
    assert [str(number) for number in range(6)] * 2 == await bench.sent()


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (SourceUnavailable("gone"), True),
        (SourceClosed("closed"), True),
        (ZeroDivisionError("oops"), True),
        (SourceMisconfigured("no such queue"), True),
        (SourceFull("full"), False),
    ],
)
async def test_an_error_reaches_everybody_who_waits_for_it(bench: Bench, error: Exception, is_lost: bool) -> None:
    """All who share the call are told; nobody else is; a connection that may be lost is made anew by the next send."""
    gate = Latch()
    bench.source.script("send", gate, error)
    first = bench.sender.send(outgoing("a"))
    await bench.watch.until(lambda: bench.source.calls["send"])
    others = [bench.sender.send(outgoing(name)) for name in "bc"]
    await asyncio.sleep(0)
    gate.set()

    errors = await all_errors(first, *others)
    await bench.sender.send(outgoing("d"))

    assert [None, error, error] == errors
    assert ((2, 1) if is_lost else (1, 0)) == (bench.source.calls["open"], bench.source.calls["close"])
    assert ["a", "d"] == await bench.sent()


async def test_nothing_is_sent_twice_behind_the_caller_s_back(bench: Bench) -> None:
    """After an error of unknown outcome the sender repeats nothing; that is for the caller to decide."""
    bench.source.script("send", SourceUnavailable("gone"))

    with pytest.raises(SourceUnavailable, match="gone"):
        await bench.sender.send(outgoing("a"))
    await bench.sender.send(outgoing("b"))

    assert ["b"] == await bench.sent()


async def test_a_broker_that_can_t_be_reached_is_told_to_the_caller(bench: Bench) -> None:
    """The source is opened by the first send; if that fails the send fails, and the next one opens again."""
    bench.source.script("open", SourceUnavailable("connection refused"))
    before = bench.source.calls["open"]

    with pytest.raises(SourceUnavailable, match="connection refused"):
        await bench.sender.send(outgoing("a"))
    await bench.sender.send(outgoing("b"))

    assert (0, 2, ["b"]) == (before, bench.source.calls["open"], await bench.sent())


@pytest.mark.parametrize("method", ["open", "send"])
async def test_a_call_that_hangs_ends_in_an_error(bench: Bench, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever: the caller is told that the outcome is unknown, at once when the time is over."""
    monkeypatch.setattr(sender, "SEND_TIMEOUT", 0.05)
    bench.source.script(method, HANG)
    gate = Latch()
    bench.source.script("close", gate)

    with pytest.raises(SourceUnavailable) as refusal:
        await bench.sender.send(outgoing("a"))
    gate.set()
    await bench.sender.send(outgoing("b"))

    assert "queue 'orders' did not take the messages within 0.05 s" == str(refusal.value)
    assert ["b"] == await bench.sent()


async def test_a_cancelled_caller_harms_nobody(bench: Bench) -> None:
    """Who shares the call with somebody who left is served all the same."""
    gate = Latch()
    bench.source.script("send", gate)
    first = bench.sender.send(outgoing("a"))
    await bench.watch.until(lambda: bench.source.calls["send"])
    leaving, staying = [bench.sender.send(outgoing(name)) for name in "bc"]
    await asyncio.sleep(0)

    first.cancel()
    leaving.cancel()
    gate.set()
    await staying

    assert (True, True) == (first.cancelled(), leaving.cancelled())
    assert ["a", "b", "c"] == await bench.sent()


async def test_closing_sends_what_waits(bench: Bench) -> None:
    """A close under way takes nothing more, but loses nothing that was given before; closing again is no error."""
    gate = Latch()
    bench.source.script("send", gate)
    sends = [bench.sender.send(outgoing(name)) for name in "ab"]
    await bench.watch.until(lambda: bench.source.calls["send"])

    closing = asyncio.create_task(bench.sender.close())
    await asyncio.sleep(0)
    with pytest.raises(BridgeStateError, match="queue 'orders' is closed for sending"):
        await bench.sender.send(outgoing("late"))
    gate.set()
    await asyncio.gather(closing, *sends)
    await bench.sender.close()

    assert ["a", "b"] == await bench.sent()


async def test_closing_waits_no_longer_than_it_may(bench: Bench) -> None:
    """A broker that takes nothing can't hold the close; all who wait for it are told, those behind it as well."""
    bench.source.break_("send", HANG)
    sends = [bench.sender.send(outgoing(name)) for name in "ab"]
    await bench.watch.until(lambda: bench.source.calls["send"])
    behind = bench.sender.send(outgoing("c"))
    await asyncio.sleep(0)

    async with asyncio.timeout(PATIENCE / 4):
        await bench.sender.close(0.05)
        errors = await all_errors(*sends, behind)

    assert [SourceUnavailable] * 3 == [type(error) for error in errors]
    assert "queue 'orders' was closed before its broker had the messages" == str(errors[0])
    assert not bench.source._is_open


async def test_a_source_that_ignores_being_cancelled_can_t_hold_a_sender(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A send that swallows its cancelling is left behind: its caller is told in time, and the next send works."""
    monkeypatch.setattr(sender, "SEND_TIMEOUT", 0.1)
    opened = Latch()

    class Deaf(ScriptedSource):
        async def send(self, messages: Sequence[Outgoing]) -> None:
            while not opened.is_set and self.calls["send"] == 0:
                try:
                    await opened.wait()
                except asyncio.CancelledError:
                    continue
            await super().send(messages)

    deaf = Sender("orders", Deaf(bench.broker), codec=JsonCodec(), max_message_size=200)

    async with asyncio.timeout(PATIENCE / 2):
        with pytest.raises(SourceUnavailable, match="did not take the messages"):
            await deaf.send(outgoing("a"))
        await deaf.close(0.1)
    opened.set()


async def test_what_was_left_behind_has_no_part_in_later_sends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that ends long after it was given up tells nobody, sends no more, and opens or closes nothing."""
    monkeypatch.setattr(sender, "SEND_TIMEOUT", 0.05)
    monkeypatch.setattr(sender, "MAX_BATCH", 1)
    gate = Latch()

    class Deaf(ScriptedSource):
        async def send(self, messages: Sequence[Outgoing]) -> None:
            while not gate.is_set and not self.send_sizes:
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue
            await super().send(messages)

    source = Deaf(bench.broker)
    deaf = Sender("orders", source, codec=JsonCodec(), max_message_size=200)
    given_up = deaf.send(outgoing("a", "b"))
    [error] = await all_errors(given_up)
    source.send_sizes.append(0)  # hears again
    await deaf.send(outgoing("c"))
    gate.set()
    await asyncio.sleep(0.01)
    await deaf.send(outgoing("d"))
    opened = source.calls["open"]
    await deaf.close()

    assert isinstance(error, SourceUnavailable)
    assert ["c", "a", "d"] == await bench.sent()
    assert 2 == opened


async def test_a_call_that_is_cancelled_from_within_is_a_lost_connection(bench: Bench) -> None:
    """A client library that cancels itself is told as what it is, and the next send opens anew."""
    bench.source.script("send", asyncio.CancelledError())  # type: ignore[arg-type]  # no Exception, but raised like one

    errors = await all_errors(bench.sender.send(outgoing("a")))
    await bench.sender.send(outgoing("b"))

    assert ["queue 'orders': sending was cancelled from within"] == [str(error) for error in errors]
    assert (2, ["b"]) == (bench.source.calls["open"], await bench.sent())


async def test_a_fault_in_closing_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever closes has nothing to do with what a source may raise then."""
    bench.source.script("close", ZeroDivisionError("oops"))

    await bench.sender.close()

    [record] = caplog.records
    assert ("sender's source did not close cleanly", "orders", "oops") == (
        record.getMessage(),
        record.__dict__["queue"],
        record.__dict__["error"],
    )


async def test_sending_nothing_asks_nobody(bench: Bench) -> None:
    """An empty list of messages costs no connection."""
    await bench.sender.send([])

    assert 0 == bench.source.calls["open"]
