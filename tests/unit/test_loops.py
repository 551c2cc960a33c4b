"""LoopThread: hand-over in order and in batches, and an end within bounds whatever handlers leave."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any

import pytest
import uvloop

from qbridge import Action, BridgeStateError, ConfigError, loops
from qbridge.execution import CancelReason
from qbridge.loops import LoopImplementation, new_loop
from tests.support.executor_bench import ACK, RELEASE, blocking, coroutine, outcome, stubborn, waiting
from tests.support.jobs import make_job
from tests.support.loop_bench import LoopBench, hold
from tests.support.waiting import PATIENCE, Latch, poll


@pytest.fixture
async def bench() -> AsyncIterator[LoopBench]:
    """A maker of loop threads."""
    bench = LoopBench()
    yield bench
    for thread in bench.threads:
        await thread.stop(PATIENCE)


@pytest.fixture
def short_wind_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left behind gets a twentieth of a second to end."""
    monkeypatch.setattr(loops, "_WIND_UP", 0.05)


async def test_jobs_start_in_the_order_they_were_handed_over(bench: LoopBench) -> None:
    """Batch after batch, the handlers of one loop thread start in order, in that thread."""
    thread = await bench.start()
    order: list[int] = []
    threads: set[str] = set()

    async def handler(number: int) -> None:
        order.append(number)
        threads.add(threading.current_thread().name)

    jobs = [make_job(handler, number) for number in range(700)]
    for first, last in ((0, 1), (1, 600), (600, 700)):
        assert thread.submit(jobs[first:last])
    await bench.until_ended(jobs)

    assert list(range(700)) == order
    assert {"loop-0"} == threads
    assert 0 == thread.in_flight


async def test_a_batch_costs_one_wake_up_each_way(bench: LoopBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand tasks wake the loop thread once; the main thread, busy meanwhile, is woken once for all of them."""
    thread = await bench.start()
    done = Latch()
    woken: Counter[str] = Counter()
    wake = asyncio.BaseEventLoop.call_soon_threadsafe

    def counted(loop: asyncio.BaseEventLoop, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        woken["home" if loop is home else "thread"] += 1
        return wake(loop, callback, *args, context=context)

    async def handler(number: int) -> None:
        if number == 999:
            done.set()

    home = asyncio.get_running_loop()
    jobs = [make_job(handler, number) for number in range(1000)]
    monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", counted)

    thread.submit(jobs)
    done.block()  # the main thread has something else to do
    await bench.until_ended(jobs)

    assert 1 == woken["thread"]
    assert woken["home"] <= 2  # the last task may end when the main thread looks already
    assert jobs == bench.ended


async def test_what_has_not_reached_the_loop_can_be_taken_back(bench: LoopBench) -> None:
    """A recalled job does not run, and gives its place back."""
    thread = await bench.start(concurrency=10)
    holder, opened = await hold(thread)
    jobs = [make_job(coroutine, number) for number in range(3)]
    thread.submit(jobs)
    before = (thread.in_flight, thread.free)

    recalled = thread.recall()
    after = (thread.in_flight, thread.free)
    opened.set()
    await bench.until_ended([holder])

    assert jobs == recalled
    assert ((4, 6), (1, 9)) == (before, after)
    assert [holder] == bench.ended


async def test_cancelling_reaches_the_loop(bench: LoopBench) -> None:
    """One job, or all, can be cancelled from the main thread; each is handed back with what became of it."""
    thread = await bench.start()
    thread._loop.set_debug(True)  # refuses what is done to it from another thread
    latches = [Latch() for _ in range(3)]
    jobs = [make_job(functools.partial(waiting, latch)) for latch in latches]
    thread.submit(jobs)
    for latch in latches:
        await latch.wait()

    thread.cancel(jobs[1], CancelReason.LEASE_LOST)
    await bench.until_ended(jobs[1:2])
    thread.cancel_all(CancelReason.DRAIN)
    await bench.until_ended(jobs)

    assert [RELEASE, None, RELEASE] == [job.settlement and outcome(job) for job in jobs]


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


async def test_a_thread_starts_once(bench: LoopBench) -> None:
    """A second start is a fault of the caller, and told as one."""
    thread = await bench.start()

    with pytest.raises(BridgeStateError) as refusal:
        await thread.start()

    assert "loop thread 'loop-0' was started before; make another one" == str(refusal.value)


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


async def _raise(error: BaseException) -> None:
    raise error


async def _gather_exit() -> None:
    await asyncio.gather(_raise(SystemExit(3)))


async def _leave_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        await asyncio.create_task(_raise(KeyboardInterrupt()))


async def _exit_in_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit)
    await asyncio.sleep(0)


async def _stop_loop() -> None:
    asyncio.get_running_loop().stop()


@pytest.mark.parametrize("implementation", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (_gather_exit, (Action.RETRY, 0.5, "", "SystemExit: 3")),
        (_leave_interrupt, ACK),
        (_exit_in_callback, ACK),
        (_stop_loop, ACK),
    ],
)
async def test_nothing_that_a_handler_does_ends_its_loop(
    bench: LoopBench,
    implementation: LoopImplementation,
    handler: Callable[[], Awaitable[None]],
    expected: tuple[Action, float, str, str],
) -> None:
    """An exit raised in a handler's own tasks or callbacks, or a stopped loop: other tasks of the thread go on."""
    thread = await bench.start(implementation=implementation)
    running, opened = Latch(), Latch()
    other = make_job(functools.partial(stubborn, running, opened))
    first, second = make_job(handler), make_job(coroutine, 1)

    thread.submit([other, first])
    await bench.until_ended([first])
    thread.submit([second])
    await bench.until_ended([second])
    opened.set()
    await bench.until_ended([other])

    assert [expected, ACK, ACK] == [outcome(job) for job in (first, second, other)]


async def test_a_heartbeat_shows_whether_a_loop_is_blocked(bench: LoopBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that turns moves its last sign of life; one that is blocked doesn't."""
    monkeypatch.setattr(loops, "HEARTBEAT", 0.01)
    thread = await bench.start()
    first = thread.last_beat
    await poll(lambda: thread.last_beat > first)

    _, opened = await hold(thread)
    blocked = thread.last_beat
    await asyncio.sleep(0.05)  # several heartbeats
    still_blocked = thread.last_beat
    opened.set()

    assert blocked == still_blocked
    await poll(lambda: thread.last_beat > blocked)


@pytest.mark.parametrize(
    ("implementation", "kind"), [("auto", uvloop.Loop), ("uvloop", uvloop.Loop), ("asyncio", asyncio.SelectorEventLoop)]
)
def test_the_implementation_is_the_one_asked_for(
    implementation: LoopImplementation, kind: type[asyncio.AbstractEventLoop]
) -> None:
    """uvloop runs handlers where it is installed, unless asyncio's own loop was asked for."""
    loop = new_loop(implementation)
    loop.close()

    assert kind is type(loop) or issubclass(type(loop), kind)


def test_a_missing_uvloop_is_an_error_only_if_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvloop, "auto" takes asyncio's loop, and "uvloop" says what to install."""
    monkeypatch.setitem(sys.modules, "uvloop", None)

    new_loop("auto").close()
    with pytest.raises(ConfigError) as refusal:
        new_loop("uvloop")

    assert 'loop implementation "uvloop" is not installed: pip install "qbridge[uvloop]", or use "auto"' == str(
        refusal.value
    )
