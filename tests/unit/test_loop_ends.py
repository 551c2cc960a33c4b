"""LoopThread: an end within bounds, whatever handlers leave."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import threading
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import pytest

from qbridge import loops
from qbridge.loops import LoopImplementation
from tests.support.executor_bench import blocking, coroutine, stubborn, waiting
from tests.support.jobs import make_job
from tests.support.loop_bench import LoopBench, hold
from tests.support.waiting import PATIENCE, Latch, poll


@pytest.fixture
async def bench() -> AsyncIterator[LoopBench]:
    """A maker of loop threads."""
    async with LoopBench() as bench:
        yield bench


@pytest.fixture
def short_wind_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left behind gets a twentieth of a second to end."""
    monkeypatch.setattr(loops, "_WIND_UP", 0.05)


async def test_a_stopped_thread_takes_nothing(bench: LoopBench) -> None:
    """After `stop` jobs are refused, and not counted; stopping again is no error."""
    thread = await bench.start()

    stopped = await thread.stop(PATIENCE)

    assert not thread.submit([make_job(coroutine, 1)])
    assert (True, True, False, 0) == (stopped, await thread.stop(PATIENCE), thread.is_alive, thread.in_flight)
    assert not thread.is_wedged


async def test_a_thread_that_was_never_started_can_be_stopped(bench: LoopBench) -> None:
    """Stopping before the start closes its loop; it takes no jobs then."""
    thread = bench.make()

    assert await thread.stop(0.0)
    assert not thread.submit([make_job(coroutine, 1)])
    assert not thread.is_wedged


async def test_what_handlers_leave_on_the_loop_is_ended_with_it(bench: LoopBench) -> None:
    """Background tasks are cancelled and async generators closed when the thread stops, and may clean up."""
    thread = await bench.start()
    cleaned: list[str] = []
    kept: list[Any] = []

    async def background(running: Latch) -> None:
        try:
            await waiting(running)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("task")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            cleaned.append("generator")

    async def handler() -> None:
        running = Latch()
        kept.append(asyncio.create_task(background(running)))
        await running.wait()
        generator = numbers()
        kept.append(generator)
        await anext(generator)

    job = make_job(handler)
    thread.submit([job])
    await bench.until_ended([job])

    assert await thread.stop(PATIENCE)
    assert ["task", "generator"] == cleaned


@pytest.mark.usefixtures("short_wind_up")
async def test_a_coroutine_that_swallows_cancellation_can_t_hold_the_thread(
    bench: LoopBench, caplog: pytest.LogCaptureFixture
) -> None:
    """Its loop is closed under it when its time is over."""
    thread = await bench.start()
    running, opened = Latch(), Latch()
    thread.submit([make_job(functools.partial(stubborn, running, opened))])
    await running.wait()
    before = monotonic()

    stopped = await thread.stop(PATIENCE)

    assert (True, False) == (stopped, thread.is_wedged)
    assert monotonic() - before < PATIENCE / 2
    opened.set()
    bench.threads.clear()
    del thread
    gc.collect()  # so that the task, which never ended, complains in this test
    assert ["Task was destroyed but it is pending!"] == [
        record.getMessage().partition("\n")[0] for record in caplog.records if record.levelno >= logging.ERROR
    ]


@pytest.mark.usefixtures("short_wind_up")
async def test_a_blocked_loop_can_t_hold_the_stop(bench: LoopBench) -> None:
    """A handler that blocks its thread leaves it wedged: `stop` returns in time and says so."""
    thread = await bench.start()
    _, opened = await hold(thread)

    stopped = await thread.stop(0.05)
    wedged = thread.is_wedged
    is_taken = thread.submit([make_job(coroutine, 1)])
    opened.set()

    assert (False, True, False) == (stopped, wedged, is_taken)
    assert await thread.stop(PATIENCE)
    assert not thread.is_wedged


@pytest.mark.usefixtures("short_wind_up")
async def test_a_fenced_thread_gives_back_what_is_not_its_own(bench: LoopBench) -> None:
    """It gives back what its loop has not received, takes and hands back nothing more, and is not waited for."""
    thread = await bench.start()
    holder, opened = await hold(thread)
    unreceived = make_job(coroutine, 1)
    thread.submit([unreceived])

    given = thread.fence()
    before = monotonic()
    stopped = await thread.stop(PATIENCE)
    took = monotonic() - before
    is_taken = thread.submit([make_job(coroutine, 2)])
    opened.set()
    await poll(lambda: not thread.is_wedged)

    assert ([unreceived], []) == given
    assert (False, False) == (stopped, is_taken)
    assert took < PATIENCE / 4
    assert [] == bench.ended
    assert holder.ended_at


async def test_a_fenced_thread_gives_back_what_has_ended(bench: LoopBench) -> None:
    """What ended before, and lies on its way back, is not lost; the thread ends as soon as its loop turns."""
    thread = await bench.start()
    job = make_job(coroutine, 1)
    thread.submit([job])
    while not thread._outbox._items:  # this loop must not turn: it would receive the job
        threading.Event().wait(0.001)

    given = thread.fence()
    await poll(lambda: not thread.is_alive)

    assert ([], [job]) == given
    assert [] == bench.ended


@pytest.mark.usefixtures("short_wind_up")
@pytest.mark.parametrize("implementation", ["asyncio", "uvloop"])
@pytest.mark.parametrize("is_plain", [True, False], ids=["plain function", "to_thread"])
async def test_a_busy_worker_thread_can_t_hold_the_stop(
    bench: LoopBench, implementation: LoopImplementation, is_plain: bool
) -> None:
    """The loop thread ends; that a thread which works for it still runs is told as long as it does."""
    thread = await bench.start(implementation=implementation)
    running, opened = Latch(), Latch()

    async def handler() -> None:
        await asyncio.to_thread(blocking, running, opened)

    thread.submit([make_job(functools.partial(blocking, running, opened) if is_plain else handler)])
    await running.wait()

    stopped = await thread.stop(PATIENCE)
    wedged = thread.is_wedged
    opened.set()
    await poll(lambda: not thread.is_wedged)

    assert (True, True) == (stopped, wedged)


async def test_a_worker_thread_that_ends_soon_is_waited_for(bench: LoopBench) -> None:
    """A thread that is busy when the loop ends, but not for long, leaves nothing wedged."""
    thread = await bench.start()
    running, opened = Latch(), Latch()

    async def handler() -> None:
        await asyncio.to_thread(blocking, running, opened)

    thread.submit([make_job(handler)])
    await running.wait()
    asyncio.get_running_loop().call_later(0.05, opened.set)

    assert await thread.stop(PATIENCE)
    assert not thread.is_wedged
