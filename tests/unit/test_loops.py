"""LoopThread: hand-over in order and in batches, and a loop that nothing ends but its stop."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from qbridge import Action, BridgeStateError, ConfigError, loops
from qbridge.execution import CancelReason
from qbridge.loops import LoopImplementation, new_loop
from tests.support.executor_bench import ACK, RELEASE, coroutine, outcome, stubborn, waiting
from tests.support.jobs import make_job
from tests.support.loop_bench import LoopBench, hold
from tests.support.waiting import Latch, poll


@pytest.fixture
async def bench() -> AsyncIterator[LoopBench]:
    """A maker of loop threads."""
    async with LoopBench() as bench:
        yield bench


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


async def test_a_lone_job_on_an_idle_loop_gets_the_interpreter_at_once(
    bench: LoopBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread gives way when it has handed over a lone job, and never else: that would cost the others time."""
    given_way: list[float] = []
    monkeypatch.setattr(loops, "sleep", given_way.append)
    thread = await bench.start()
    holder, opened = await hold(thread)
    lone = len(given_way)

    jobs = [make_job(coroutine, number) for number in range(3)]
    thread.submit(jobs[:1])  # beside the holder
    thread.submit(jobs[1:])
    opened.set()
    await bench.until_ended([holder, *jobs])
    batch = [make_job(coroutine, number) for number in range(2)]
    thread.submit(batch)
    await bench.until_ended(batch)

    assert 1 == lone
    assert 1 == len(given_way)


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


async def test_a_thread_starts_once(bench: LoopBench) -> None:
    """A second start is a fault of the caller, and told as one."""
    thread = await bench.start()

    with pytest.raises(BridgeStateError) as refusal:
        await thread.start()

    assert "loop thread 'loop-0' was started before; make another one" == str(refusal.value)


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
