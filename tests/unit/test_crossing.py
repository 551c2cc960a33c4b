"""Crossing: sends from other loops, how they travel together, and who is told what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from qbridge import BridgeStateError, Outgoing, SourceFull
from qbridge.codec import JsonCodec
from qbridge.crossing import Crossing
from qbridge.sender import Sender
from qbridge_memory import MemoryBroker
from tests.support.scripted_source import ScriptedSource, claimed_ids
from tests.support.waiting import PATIENCE, Latch, poll


class Bench:
    """A sender on the test's loop, and another loop that sends through it."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.source = ScriptedSource(self.broker)
        self.sender = Sender("orders", self.source, codec=JsonCodec(), max_message_size=200)
        self.crossing = Crossing(asyncio.get_running_loop())

    def send(self, *names: str) -> asyncio.Future[None]:
        """Send messages from the running loop."""
        return self.crossing.send(self.sender, [Outgoing(b"{}", name) for name in names])

    def elsewhere(self, send: Callable[[threading.Event], Coroutine[Any, Any, None]]) -> asyncio.Future[None]:
        """Run a coroutine on a loop of its own; the test's loop stands still until it has set the event."""
        made = threading.Event()
        done = asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(send(made)))
        assert made.wait(PATIENCE)
        return done

    async def sent(self) -> list[str]:
        """Claim what has reached the queue; return the ids in order."""
        return await claimed_ids(self.broker)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A crossing to the test's loop."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    bench = Bench()
    yield bench
    await bench.sender.close()
    bench.crossing.close()
    assert [] == faults


def watch(loop: asyncio.AbstractEventLoop, woken: Callable[[], object]) -> None:
    """Call a function whenever another thread wakes the loop."""
    wake = loop.call_soon_threadsafe

    def note(*arguments: Any, **options: Any) -> asyncio.Handle:
        handle = wake(*arguments, **options)
        woken()
        return handle

    loop.call_soon_threadsafe = note  # type: ignore[assignment,method-assign]  # to see who wakes it


async def test_sends_of_another_loop_travel_together(bench: Bench) -> None:
    """All that is sent at once goes in one call, and its outcomes wake the other loop once."""
    wakings: list[str] = []

    async def send(made: threading.Event) -> None:
        sends = [bench.send(str(number)) for number in range(200)]
        watch(asyncio.get_running_loop(), lambda: wakings.append(threading.current_thread().name))
        made.set()
        await asyncio.gather(*sends)

    await bench.elsewhere(send)

    assert ([200], 1) == (bench.source.send_sizes, wakings.count(threading.main_thread().name))
    assert [str(number) for number in range(200)] == await bench.sent()


async def test_who_leaves_before_the_crossing_sends_nothing(bench: Bench) -> None:
    """A cancelled send that nobody has seen yet is none."""

    async def send(made: threading.Event) -> None:
        leaving, staying = bench.send("a"), bench.send("b")
        leaving.cancel()
        made.set()
        await staying

    await bench.elsewhere(send)

    assert ["b"] == await bench.sent()


async def test_who_leaves_after_the_crossing_harms_nobody(bench: Bench) -> None:
    """Those who share a call with somebody who left are told of its end, and what was given is sent."""
    gate = Latch()
    bench.source.script("send", gate)

    async def send(made: threading.Event) -> None:
        leaving, staying = bench.send("a"), bench.send("b")
        made.set()
        await poll(lambda: bench.source.calls["send"])
        leaving.cancel()
        gate.set()
        await staying

    await bench.elsewhere(send)

    assert ["a", "b"] == await bench.sent()


async def test_who_leaves_before_the_outcome_arrives_harms_nobody(bench: Bench) -> None:
    """An outcome that is on its way reaches those who still wait."""
    told = threading.Event()

    async def send(made: threading.Event) -> None:
        leaving, staying = bench.send("a"), bench.send("b")
        watch(asyncio.get_running_loop(), told.set)
        made.set()
        assert told.wait(PATIENCE)
        leaving.cancel()
        await staying

    await bench.elsewhere(send)

    assert ["a", "b"] == await bench.sent()


async def test_each_caller_is_told_what_went_wrong(bench: Bench) -> None:
    """All who shared a call get its error, and the next call has its own outcome."""
    bench.source.script("send", SourceFull("full"))
    errors: list[BaseException | None] = []

    async def send(made: threading.Event) -> None:
        sends = [bench.send(name) for name in "ab"]
        made.set()
        errors.extend(await asyncio.gather(*sends, return_exceptions=True))
        await bench.send("c")

    await bench.elsewhere(send)

    assert ["full", "full"] == [str(error) for error in errors]
    assert ["c"] == await bench.sent()


async def test_a_loop_that_has_ended_holds_up_no_other(bench: Bench) -> None:
    """What a loop has sent before it ended is sent; there is nobody left to tell, but in other loops there is."""

    async def send_and_end() -> None:
        bench.send("a")

    async def send(made: threading.Event) -> None:
        sent = bench.send("b")
        made.set()
        await sent

    thread = threading.Thread(target=lambda: asyncio.run(send_and_end()))
    thread.start()
    thread.join(PATIENCE)

    await bench.elsewhere(send)

    assert ["a", "b"] == await bench.sent()


async def test_what_has_not_crossed_before_the_close_is_refused(bench: Bench) -> None:
    """Nobody waits for a send that can't go any more, and none is taken after the close."""
    errors: list[BaseException | None] = []

    async def send(made: threading.Event) -> None:
        sent = bench.send("a")
        made.set()
        errors.extend(await asyncio.gather(sent, return_exceptions=True))
        with pytest.raises(BridgeStateError, match="queue 'orders' is closed for sending"):
            bench.send("b")

    sending = bench.elsewhere(send)
    bench.crossing.close()
    await sending

    assert ["queue 'orders' is closed for sending"] == [str(error) for error in errors]
    assert [BridgeStateError] == [type(error) for error in errors]
    assert [] == await bench.sent()


async def test_a_sender_that_was_closed_meanwhile_refuses(bench: Bench) -> None:
    """The caller is told when its messages reach a sender that takes nothing more."""
    await bench.sender.close()

    async def send(made: threading.Event) -> None:
        sent = bench.send("a")
        made.set()
        with pytest.raises(BridgeStateError, match="queue 'orders' is closed for sending"):
            await sent

    await bench.elsewhere(send)

    assert [] == await bench.sent()
