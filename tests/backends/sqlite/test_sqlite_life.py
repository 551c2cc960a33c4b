"""The life of a source: its thread, what cancelling does, and what is left when it ends in whatever way."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from qbridge import Delivery, SourceClosed, SourceMisconfigured
from qbridge_sqlite.connection_thread import ConnectionThread
from qbridge_sqlite.database import Database
from qbridge_sqlite.requests import Call, Claim, Claimed, Request
from tests.backends.sqlite.conftest import (
    PATIENCE,
    OtherProcess,
    SourceFactory,
    bodies,
    claim,
    entries,
    make_source,
    outgoing,
)

Start = Callable[..., Awaitable[OtherProcess]]


class Gate:
    """Holds the thread of a source within a transaction."""

    def __init__(self) -> None:
        self._is_held = threading.Event()
        self._is_open = threading.Event()

    def hold(self) -> Call:
        """Return a request that is not answered before the gate is opened."""

        def pass_gate(database: Database) -> None:
            self._is_held.set()
            assert self._is_open.wait(PATIENCE)

        return Call(function=pass_gate)

    def wait_until_held(self) -> None:
        """Return when the thread is there. Blocks the event loop, as nothing else is to happen."""
        assert self._is_held.wait(PATIENCE)

    def open(self) -> None:
        """Let the thread go on."""
        self._is_open.set()


def threads() -> list[str]:
    """Return the names of the threads of sqlite sources."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("qbridge-sqlite-")]


async def test_cancelled_receives_lose_nothing(open_source: SourceFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 100 receives that are cancelled at any moment of their claims, each message is there at once, uncounted."""
    chance = random.Random(7)
    source = await open_source(lease=600)
    names = [f"{number}" for number in range(100)]
    await source.send(outgoing(*names))
    given_back: list[str] = []
    monkeypatch.setattr(ConnectionThread, "give_back", spy_on_give_back(given_back))
    received: list[Delivery] = []

    for _ in names:
        receiving = asyncio.create_task(source.receive(1, 30))
        await turns(2)
        await pass_some_time(chance.random() * 0.002)
        receiving.cancel()
        await asyncio.wait([receiving])
        if not receiving.cancelled():
            received += receiving.result()
    received += await claim(source, len(names) - len(received))

    assert Counter(names) == Counter(bodies(received))
    assert {(1, 0)} == {(delivery.attempt, delivery.crashes) for delivery in received}
    assert given_back, "no cancel hit a claim"


async def test_a_claim_answered_at_the_moment_of_the_cancel_comes_back(
    open_source: SourceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receive that is cancelled when its claim has been answered, and before it goes on, gives it back."""
    source = await open_source(lease=600)
    await source.send(outgoing("a"))
    assert source._thread is not None
    submit = source._thread.submit
    receiving: asyncio.Task[Sequence[Delivery]]

    def submit_and_cancel_when_answered(request: Request) -> asyncio.Future[Any]:
        future = submit(request)
        future.add_done_callback(lambda _: receiving.cancel())
        return future

    with monkeypatch.context() as patch:
        patch.setattr(source._thread, "submit", submit_and_cancel_when_answered)
        receiving = asyncio.create_task(source.receive(1, 30))
        with pytest.raises(asyncio.CancelledError):
            await receiving

    [delivery] = await source.receive(1, PATIENCE)

    assert ("a", 1) == (delivery.body.decode(), delivery.attempt)


async def test_closing_while_a_cancelled_claim_is_on_its_way_gives_it_back(path: Path) -> None:
    """A source that is closed right after its receive was cancelled keeps no message for the length of its lease."""
    source = make_source(path, lease=600)
    await source.open()
    await source.send(outgoing("a"))
    thread = source._thread
    assert thread is not None
    first, second = Gate(), Gate()

    # While the first is held the others gather, and are one transaction.
    thread.submit(first.hold())
    first.wait_until_held()
    thread.submit(second.hold())
    receiving = asyncio.create_task(source.receive(1, 30))
    await turns(1)
    first.open()
    second.wait_until_held()
    receiving.cancel()
    closing = asyncio.create_task(source.close())
    await turns(2)
    second.open()
    thread._thread.join(0.3)  # the event loop is busy for a moment: the thread must not end meanwhile
    await closing

    assert receiving.cancelled()
    assert ["a"] == await received_by_another(path)


async def test_all_is_done_by_one_thread(open_source: SourceFactory) -> None:
    """A source has one thread however much is asked of it at once, and the event loop goes on meanwhile."""
    source = await open_source("orders")

    await asyncio.gather(*(source.send(outgoing(f"{number}")) for number in range(100)))

    assert ["qbridge-sqlite-orders"] == threads()


async def test_nothing_is_left_after_close(path: Path) -> None:
    """After `close`, also after a failed or a cancelled `open`, no thread of the source is left."""
    source = make_source(path)
    await source.close()
    opening = asyncio.create_task(source.open())
    await turns(1)
    opening.cancel()
    await asyncio.wait([opening])
    after_cancel = threads()
    with pytest.raises(SourceMisconfigured):
        await make_source(path / "missing").open()
    after_failure = threads()

    await source.open()
    await source.send(outgoing("a"))
    await source.close()
    await source.close()

    assert ([], [], []) == (after_cancel, after_failure, threads())
    assert ["q.db"] == entries(path.parent)


async def test_closing_ends_a_waiting_receive(open_source: SourceFactory) -> None:
    """A receive that waits when the source is closed returns [] at once; the next call is SourceClosed."""
    source = await open_source()
    receiving = asyncio.create_task(source.receive(1, 600))
    await asyncio.wait([receiving], timeout=0.2)

    await source.close()
    received = await asyncio.wait_for(receiving, PATIENCE)

    assert [] == received
    with pytest.raises(SourceClosed):
        await source.receive(1, 0)


async def test_what_was_asked_before_close_is_done(open_source: SourceFactory) -> None:
    """Sends that are on their way when the source is closed are accepted."""
    source, other = await open_source(), await open_source()
    sending = [asyncio.create_task(source.send(outgoing(f"{number}"))) for number in range(20)]
    await turns(1)

    await source.close()
    await asyncio.gather(*sending)

    assert 20 == (await other.stats()).ready


async def test_a_forgotten_close_does_not_keep_the_process(start: Start, path: Path) -> None:
    """A program that ends without closing a source ends at once, cleanly, and leaves the message and no more."""
    forgetful = await start("forget")

    await forgetful.rest()

    assert 0 == forgetful.code
    assert ["q.db"] == entries(path.parent)
    source = make_source(path)
    await source.open()
    assert ["kept"] == bodies(await source.receive(1, 0))
    await source.close()


def test_a_claim_whose_loop_was_closed_is_given_back(path: Path) -> None:
    """When the event loop is closed under a claim, its message is free at once, and the thread ends."""
    source = make_source(path, lease=600)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(source.open())
    loop.run_until_complete(source.send(outgoing("a")))
    thread = source._thread
    assert thread is not None
    first, second = Gate(), Gate()

    thread.submit(first.hold())
    first.wait_until_held()
    thread.submit(second.hold())
    thread.submit(Claim(limit=1, waits=False))
    first.open()
    second.wait_until_held()
    loop.close()
    second.open()
    thread._thread.join(PATIENCE)

    assert [] == threads()
    assert ["a"] == asyncio.run(received_by_another(path))


async def test_the_event_loop_is_never_blocked(open_source: SourceFactory, start: Start) -> None:
    """While the file is locked for half a second the event loop turns as ever."""
    source = await open_source(busy_timeout=0.5)
    locker = await start("lock")
    assert "locked" == await locker.line()
    longest = 0.0
    sending = asyncio.create_task(source.send(outgoing("a")))

    while not sending.done():
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        longest = max(longest, time.perf_counter() - began)

    assert sending.exception() is not None
    assert longest < 0.25


async def turns(count: int) -> None:
    """Let the event loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def pass_some_time(seconds: float) -> None:
    """Be busy elsewhere for a moment; the test means whatever point of the claim that hits."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:  # noqa: ASYNC110  # no event, a moment
        await asyncio.sleep(0)


def spy_on_give_back(seen: list[str]) -> Callable[[ConnectionThread, Claimed], None]:
    """Return a `give_back` that also notes the bodies in `seen`."""
    give_back = ConnectionThread.give_back

    def noting(thread: ConnectionThread, claimed: Claimed) -> None:
        seen.extend(bodies(claimed.deliveries))
        give_back(thread, claimed)

    return noting


async def received_by_another(path: Path) -> list[str]:
    """Return the bodies of what another source gets at once."""
    source = make_source(path)
    await source.open()
    received = bodies(await source.receive(10, 0))
    await source.close()
    return received


async def test_closing_leaves_a_thread_that_hangs_behind_and_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that a slow disk holds doesn't hold close(): one line names it."""
    monkeypatch.setattr("qbridge_sqlite.connection_thread._PATIENCE", 0.1)
    monkeypatch.setattr("qbridge_sqlite.connection_thread._PATIENCE_AFTER_INTERRUPT", 0.1)
    source = make_source(path)
    await source.open()
    thread = source._thread
    assert thread is not None
    gate = Gate()
    held = thread.submit(gate.hold())
    gate.wait_until_held()

    async with asyncio.timeout(PATIENCE):
        await source.close()

    assert ["the thread of an sqlite queue hangs and is left behind"] == caplog.messages
    gate.open()
    await held
    thread._thread.join(PATIENCE)
    assert [] == threads()
