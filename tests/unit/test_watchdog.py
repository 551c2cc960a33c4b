"""Watchdog: a blocked loop is seen, told of once with whom it is blocked by, and gets no work meanwhile."""

from __future__ import annotations

import asyncio
import ctypes
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from qbridge import LoopBlocked, LoopFreed, LoopHealth, QBridge
from qbridge.watchdog import LoopLimits
from tests.support.ledger import Ledger, logged, names, send, told
from tests.support.waiting import Latch, poll
from tests.support.worker_bench import WorkerBench

pytestmark = pytest.mark.usefixtures("quick_heartbeat")

#: A loop is called blocked after three tenths of a second, which no busy machine takes from it, and never given up.
LIMITS = LoopLimits(blocked_after=0.3, replace_after=None)


async def test_a_block_is_told_once_with_all_that_is_known(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """One warning with thread, handler, queue, message and stack, and one event, however long the block lasts."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "hold", ["innocent"])
        await bench.start()
        await ledger.until_started(1)
        await send(bench, "block", ["culprit"])
        await ledger.until_started(2)

        await bench.until(lambda: told(bench, LoopBlocked))
        await asyncio.sleep(0.7)  # long enough to be told three times
        [line] = logged(caplog, "a handler blocks its loop")
        [event] = told(bench, LoopBlocked)
        blocked = bench.intakes["q"].running_jobs()[1].message.id
        ledger.open("culprit", "innocent")

        assert (logging.WARNING, "default-0", "q", "block", blocked, 1) == (
            line.levelno,
            line.loop_thread,
            line.queue,
            line.task,
            line.message_id,
            line.attempt,
        )
        assert "self.gate(name).block()" in line.stack.splitlines()[1]
        assert ("default-0", "q", "block", blocked) == (event.loop_thread, event.queue, event.task, event.message_id)
        assert 0.3 <= event.seconds == line.seconds < 5


async def test_the_end_of_a_block_is_told(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Health shows a blocked loop as long as it is one; then a line and an event say for how long it was."""
    caplog.set_level(logging.INFO)
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await bench.start()
        before = bench.watchdog.health
        await send(bench, "block", ["culprit"])
        await bench.until(lambda: told(bench, LoopBlocked))
        during = bench.watchdog.health

        ledger.open("culprit")
        await bench.until(lambda: told(bench, LoopFreed))
        after = bench.watchdog.health
        [line] = logged(caplog, "a loop is no longer blocked")
        [event] = told(bench, LoopFreed)

        assert [((), 0), (("default-0",), 1), ((), 1)] == [
            (tuple(loop.loop_thread for loop in health.blocked), health.blocked_total)
            for health in (before, during, after)
        ]
        assert 0.3 <= during.blocked[0].seconds
        assert (logging.INFO, "default-0", "default-0") == (line.levelno, line.loop_thread, event.loop_thread)
        assert told(bench, LoopBlocked)[0].seconds <= event.seconds < 5


async def test_a_second_block_is_told_again(ledger: Ledger) -> None:
    """Once a loop was free, the next block is another one."""
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await bench.start()

        for name in ("first", "second"):
            bench.told.clear()
            await send(bench, "block", [name])
            await bench.until(lambda: told(bench, LoopBlocked))
            ledger.open(name)
            await bench.until(lambda: told(bench, LoopFreed))

        assert 2 == bench.watchdog.health.blocked_total


async def test_a_plain_function_may_take_long(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """It blocks a worker thread, which is what that is for, and not its loop."""

    def work(name: str) -> None:
        ledger.gate(name).block()

    ledger.registry.task(name="plain")(work)
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "plain", ["slow"])
        await bench.start()
        await bench.until(lambda: bench.intakes["q"].held)

        await asyncio.sleep(0.6)  # twice what is allowed to a loop
        ledger.open("slow")
        await bench.until_finished(1)

        assert ([], []) == (told(bench, LoopBlocked), logged(caplog, "a handler blocks its loop"))


async def in_a_group(block: Callable[[], None]) -> None:
    """Block in a task of a task group."""

    async def child() -> None:
        block()

    async with asyncio.TaskGroup() as group:
        group.create_task(child())


async def in_a_nested_task(block: Callable[[], None]) -> None:
    """Block two tasks further down, behind things that don't say for whom they wait."""
    await asyncio.wait([asyncio.create_task(in_a_group(block))])


async def in_a_callback(block: Callable[[], None]) -> None:
    """Block in a callback of the loop."""
    asyncio.get_running_loop().call_soon(block)
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize(
    ("way", "expected"), [(in_a_group, "culprit"), (in_a_nested_task, "culprit"), (in_a_callback, "")]
)
async def test_it_is_known_whose_tasks_block(
    ledger: Ledger, way: Callable[[Callable[[], None]], Awaitable[None]], expected: str
) -> None:
    """A task that a handler has started is the handler's; of a bare callback nobody knows, so nobody is named."""

    async def culprit() -> None:
        await way(ledger.gate("culprit").block)

    ledger.registry.task(culprit)
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await send(bench, "hold", names(2))
        await bench.start()
        await ledger.until_started(2)

        await bench.send("culprit", ())
        await bench.until(lambda: told(bench, LoopBlocked))
        task = told(bench, LoopBlocked)[0].task
        ledger.open("culprit", *names(2))

        assert expected == task


async def test_what_an_ended_handler_has_left_is_blamed_on_nobody(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """A background task that blocks belongs to no running handler; its stack is told all the same."""
    kept: list[asyncio.Task[None]] = []
    go_on = Latch()

    async def later() -> None:
        await go_on.wait()
        ledger.gate("background").block()

    async def leave() -> None:
        kept.append(asyncio.create_task(later()))

    ledger.registry.task(leave)
    async with WorkerBench(ledger.registry, limits=LIMITS) as bench:
        await bench.add()
        await bench.start()
        await bench.send("leave", ())
        await bench.until_finished(1)
        await send(bench, "hold", ["innocent"])
        await ledger.until_started(1)

        go_on.set()
        await bench.until(lambda: told(bench, LoopBlocked))
        [line] = logged(caplog, "a handler blocks its loop")
        ledger.open("background", "innocent")

        assert ("", True) == (told(bench, LoopBlocked)[0].task, 'gate("background").block()' in line.stack)


async def test_others_get_what_a_blocked_loop_has_not_received(ledger: Ledger) -> None:
    """Tasks that lie before a blocked loop are dealt anew, in order; those of other loops go on."""
    async with WorkerBench(ledger.registry, threads=2, concurrency=5, limits=LIMITS) as bench:
        await bench.add()
        await bench.start()
        await send(bench, "block", ["culprit"])
        await ledger.until_started(1)
        await send(bench, "work", names(8))

        await bench.until(lambda: len(bench.finished) == 8)
        ended = [event.loop_thread for event in bench.finished]
        ledger.open("culprit")
        await bench.until_finished(9)

        assert 1 == len(set(ended))
        assert {1} == {event.attempt for event in bench.finished}
        assert ["culprit", *names(8)] == sorted(ledger.started, key=lambda name: (name != "culprit", name))


async def test_nothing_is_claimed_for_a_blocked_loop(ledger: Ledger) -> None:
    """What can't start is left to other workers until the loop turns again."""
    async with WorkerBench(ledger.registry, concurrency=3, limits=LIMITS) as bench:
        await bench.add()
        await bench.start()
        await send(bench, "block", ["culprit"])
        await bench.until(lambda: told(bench, LoopBlocked))
        await bench.until(lambda: not bench.sources["q"].is_receiving)

        await send(bench, "work", names(5))
        await asyncio.sleep(0.3)  # longer than a claim waits
        ready, held = (await bench.producer().stats()).ready, bench.intakes["q"].held
        ledger.open("culprit")
        await bench.until_finished(6)

        assert (5, 1) == (ready, held)
        assert ["culprit", *names(5)] == ledger.started


@pytest.mark.parametrize("is_plain", [True, False], ids=["plain function", "coroutine"])
async def test_a_held_interpreter_is_told_and_held_against_no_loop(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, is_plain: bool
) -> None:
    """C code that stops everything: who was on the way is named, and no loop is called blocked for it."""

    def hold_in_thread() -> None:
        ctypes.PyDLL(None).usleep(900_000)  # a PyDLL keeps the interpreter

    async def hold_on_loop() -> None:
        hold_in_thread()

    function = hold_in_thread if is_plain else hold_on_loop
    ledger.registry.task(function)
    async with WorkerBench(ledger.registry, limits=LoopLimits(blocked_after=0.5, replace_after=0.6)) as bench:
        await bench.add()
        await bench.start()
        await send(bench, "work", names(3))
        await bench.until_finished(3)
        await bench.send(function.__name__, ())
        await bench.until_finished(4)
        await poll(lambda: bench.watchdog.health.held_total)
        line = logged(caplog, "the main loop was held up")[0]
        health = bench.watchdog.health

        assert 0.5 <= line.seconds < 5
        assert line.handlers.startswith(f"{function.__name__} (")
        assert 1 == line.handlers.count("(")
        assert (0, 0) == (health.blocked_total, health.replaced_total)


async def test_a_hold_that_is_too_short_to_be_told_blocks_no_loop_either(ledger: Ledger) -> None:
    """The delay of a look is held against no loop, not even against one that goes on to be blocked for a moment."""
    is_free = Latch()

    async def hold_all() -> None:
        ctypes.PyDLL(None).usleep(550_000)
        is_free.set()
        ledger.gate("moment").block()

    ledger.registry.task(hold_all)
    async with WorkerBench(ledger.registry, limits=LoopLimits(blocked_after=0.5, replace_after=None)) as bench:
        await bench.add()
        await bench.start()
        await bench.send("hold_all", ())
        await is_free.wait()
        await asyncio.sleep(0.05)  # time for the look that was late
        ledger.open("moment")
        await bench.until_finished(1)

        assert [] == told(bench, LoopBlocked)


async def test_a_bridge_tells_how_its_loops_are(ledger: Ledger) -> None:
    """What probes ask for: nothing before the worker runs, a blocked loop while it is one, and the counters after."""
    async with QBridge(ledger.registry, loops={"default": {"blocked_after": "0.5s"}}) as bridge:
        before = bridge.loop_health
        running = asyncio.create_task(bridge.run())
        await bridge.send("block", "culprit")
        await poll(lambda: bridge.loop_health.blocked)
        [blocked] = bridge.loop_health.blocked
        ledger.open("culprit")
        await poll(lambda: not bridge.loop_health.blocked)
        bridge.stop()
        report = await running

        assert LoopHealth() == before
        assert ("default-0", True) == (blocked.loop_thread, blocked.seconds >= 0.5)
        assert LoopHealth(blocked_total=1) == replace(bridge.loop_health, held_total=0)
        assert 0 == report.abandoned
