"""BlockingSource: calls that hang, fail or take too long, and what their callers are told."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from qbridge import Delivery, SourceFull, SourceUnavailable
from qbridge_memory import MemoryBroker
from tests.support.blocking_bench import SOON, Gate, looking, message, receiving, soon, threads, waking


@pytest.fixture
def broker() -> MemoryBroker:
    """Where the queue of a test is."""
    return MemoryBroker()


async def test_close_leaves_a_call_that_hangs_and_says_so(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """`close` is bounded: its callers learn of a call that hangs, and `open` refuses to start a second thread."""
    source = looking(broker)
    source.close_timeout = 0.2
    gate = Gate("stats")
    source.before = gate
    await source.open()
    hanging, behind = asyncio.ensure_future(source.stats()), asyncio.ensure_future(source.keep_alive([_delivery()]))
    await gate.reached()

    await soon(source.close())
    with pytest.raises(SourceUnavailable, match=r"hangs \(do_stats runs since") as refused:
        await source.open()

    assert "time limit" in str(refused.value)
    for call in (hanging, behind):
        with pytest.raises(SourceUnavailable, match="was closed while do_stats runs since"):
            await soon(call)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "a blocking call hangs, its thread is left behind" == record.message
    await soon(source.close())

    gate.open()
    [left] = threads()
    await asyncio.to_thread(left.join, SOON)
    await source.open()
    assert 0 == (await source.stats()).ready
    await source.close()
    assert [] == threads()


async def test_a_thread_left_behind_releases_what_it_claims(broker: MemoryBroker) -> None:
    """What a claim that hung over `close` has claimed after all is released, uncounted, and the thread ends."""
    source = looking(broker)
    source.close_timeout = 0.2
    gate = Gate("claim")
    source.before = gate
    await source.open()
    broker.queue("q").send([message()], max_messages=10)
    waiting = asyncio.ensure_future(source.receive(1, 30))
    await gate.reached()
    await source.close()
    with pytest.raises(SourceUnavailable):
        await soon(waiting)

    gate.open()
    [left] = threads()
    await asyncio.to_thread(left.join, SOON)

    assert [1] == [delivery.attempt for delivery in broker.queue("q").claim(1, 60)]
    assert source.client is None, "do_close was not called"


async def test_a_call_over_its_time_limit_is_unavailable(broker: MemoryBroker) -> None:
    """A caller waits `call_timeout` at most, for its own call or for one before it."""
    source = looking(broker)
    source.call_timeout = 0.2
    gate = Gate("stats")
    source.before = gate
    await source.open()

    for call in (source.stats, source.stats, lambda: source.send([message()])):
        with pytest.raises(SourceUnavailable, match=r"did not end within 0.2 s \(do_stats runs since"):
            await soon(call())

    gate.open()
    await source.close()
    assert 0 == broker.queue("q").stats().ready, "a send that nobody waited for any more was begun"


async def test_an_open_over_its_time_limit_leaves_nothing(broker: MemoryBroker) -> None:
    """`open` is bounded by `call_timeout`; the thread ends when its connecting does."""
    source = looking(broker)
    source.call_timeout = source.close_timeout = 0.2
    gate = Gate("open")
    source.before = gate

    with pytest.raises(SourceUnavailable, match="do_open did not end within"):
        await soon(source.open())
    with pytest.raises(SourceUnavailable, match="hangs"):
        await soon(source.open())

    gate.open()
    for left in threads():
        await asyncio.to_thread(left.join, SOON)
    assert source.client is None
    await source.open()
    await source.close()


@pytest.mark.parametrize("fault", [OSError("no route"), ValueError(), SystemExit(3), StopIteration()])
async def test_an_unexpected_exception_is_unavailable(fault: BaseException, broker: MemoryBroker) -> None:
    """What a client library raises reaches the core as SourceUnavailable, with its cause, and the thread goes on."""

    def fail(name: str) -> None:
        if name == "send":
            raise fault

    source = looking(broker)
    source.before = fail
    await source.open()

    with pytest.raises(SourceUnavailable, match=f"queue 'q': do_send failed with {type(fault).__name__}") as caught:
        await source.send([message()])

    assert fault is caught.value.__cause__
    assert 0 == (await source.stats()).ready
    await source.close()


async def test_an_error_of_the_contract_crosses_as_it_is(broker: MemoryBroker) -> None:
    """A SourceError that the author raises is raised to the caller itself."""
    full = SourceFull("no room")

    def fail(name: str) -> None:
        if name == "send":
            raise full

    source = looking(broker)
    source.before = fail
    await source.open()

    with pytest.raises(SourceFull) as caught:
        await source.send([message()])

    assert full is caught.value
    await source.close()


async def test_a_failed_open_is_cleaned_up(broker: MemoryBroker, caplog: pytest.LogCaptureFixture) -> None:
    """After a `do_open` that failed `do_close` is called in its thread, which ends; a failure of that is logged."""
    source = looking(broker)
    source.is_reachable = False
    closed: list[str] = []

    def close() -> None:
        closed.append(threading.current_thread().name)
        raise OSError("not connected")

    source.do_close = close  # type: ignore[method-assign]  # seen by the test

    with pytest.raises(SourceUnavailable, match="do_open failed with ConnectionRefusedError: nobody answers"):
        await soon(source.open())

    assert ["qbridge-q"] == closed
    assert [] == threads()
    assert ["a blocking source did not close cleanly"] == [record.message for record in caplog.records]


async def test_a_do_wake_that_fails_is_logged(broker: MemoryBroker, caplog: pytest.LogCaptureFixture) -> None:
    """A fault of `do_wake` hits nobody who needs the thread."""
    source = waking(broker)
    source.longest_wait = 0.3

    def fail() -> None:
        raise OSError("no socket")

    source.do_wake = fail  # type: ignore[method-assign]  # the fault
    await source.open()
    waiting = await receiving(source)

    await soon(source.stats())

    assert "do_wake failed" in {record.message for record in caplog.records}
    source.wake()
    await soon(waiting)
    await source.close()


def _delivery() -> Delivery:
    return Delivery(body=b"", receipt=0, message_id="m")
