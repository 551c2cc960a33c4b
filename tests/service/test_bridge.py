"""QBridge as a program runs it: in one's own loop, stopped from anywhere, and its end."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from qbridge import (
    Backend,
    BridgeStateError,
    ConfigError,
    DrainReport,
    Event,
    HandlerRegistry,
    QBridge,
    QueueStats,
    TaskContext,
    TaskFinished,
    TaskMessage,
    WorkerDrained,
    worker,
)
from qbridge_memory import MemoryOptions, MemorySource, make_backend
from qbridge_memory.source import CAPABILITIES
from tests.support.bridges import MEMORY, left_in


async def test_what_is_sent_is_run_and_nothing_is_left() -> None:
    """Tasks sent before and while the worker runs are run, and the burst ends when none is left."""
    registry = HandlerRegistry()
    seen: list[tuple[int, str]] = []

    @registry.task
    async def note(number: int, *, text: str = "-") -> None:
        seen.append((number, text))

    async with QBridge(registry) as bridge:
        await bridge.send("note", 1, text="a")
        await bridge.send_many([TaskMessage(task="note", args=[2]), TaskMessage(task="note", kwargs={"number": 3})])
        report = await bridge.run(burst=True)

        assert [(1, "a"), (2, "-"), (3, "-")] == seen
        assert DrainReport() == report
        assert (0, 0, 0, 0) == await left_in(bridge)


async def test_the_bridge_lives_in_somebody_elses_loop() -> None:
    """The loop that runs the bridge goes on with other work, and handlers run on another thread."""
    registry = HandlerRegistry()
    threads: list[threading.Thread] = []
    other_work = 0

    @registry.task
    async def block() -> None:
        threads.append(threading.current_thread())
        time.sleep(0.3)  # noqa: ASYNC251  # it blocks the loop of handlers, and no other

    async with QBridge(registry) as bridge:
        await bridge.send("block")
        running = asyncio.create_task(bridge.run(burst=True))
        while not running.done():
            other_work += 1
            await asyncio.sleep(0.01)
        await running

    assert threading.current_thread() not in threads
    assert 1 == len(threads)
    assert other_work > 10


async def test_stop_drains_from_any_thread() -> None:
    """stop() lets what runs finish and puts back what was read ahead and has not started."""
    registry = HandlerRegistry()
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    @registry.task
    async def work() -> None:
        loop.call_soon_threadsafe(started.set)
        await asyncio.sleep(0.2)

    queue = MEMORY | {"read_ahead": 2}
    async with QBridge(registry, loops={"default": {"concurrency": 2}}, queues={"default": queue}) as bridge:
        await bridge.send_many(TaskMessage(task="work") for _ in range(5))
        running = asyncio.create_task(bridge.run())
        await started.wait()

        await asyncio.to_thread(bridge.stop)
        report = await running

        assert (2, 2, 0) == (report.finished, report.released, report.abandoned)
        assert (3, 0, 0, 0) == await left_in(bridge)


async def test_a_handler_that_blocks_its_loop_keeps_its_lease() -> None:
    """A handler that blocks for several leases is run once: leases are renewed by the main thread."""
    registry = HandlerRegistry()
    runs: list[int] = []

    @registry.task
    async def block(context: TaskContext) -> None:
        runs.append(context.attempt)
        time.sleep(1.2)  # noqa: ASYNC251  # it blocks the loop of handlers, for four leases

    queue = MEMORY | {"lease": "300ms"}
    async with QBridge(registry, loops={"default": {"threads": 2}}, queues={"default": queue}) as bridge:
        await bridge.send("block")
        await bridge.run(burst=True)

        assert [1] == runs
        assert (0, 0, 0, 0) == await left_in(bridge)


async def test_stop_now_cancels_and_releases() -> None:
    """stop(now=True) does not wait for the grace: handlers are cancelled, their messages are ready again, uncounted."""
    registry = HandlerRegistry()
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    attempts: list[int] = []

    @registry.task
    async def work(context: TaskContext) -> None:
        attempts.append(context.attempt)
        loop.call_soon_threadsafe(started.set)
        await asyncio.sleep(600)

    async with QBridge(registry, shutdown={"grace": 600.0}) as bridge:
        await bridge.send("work")
        running = asyncio.create_task(bridge.run())
        await started.wait()

        bridge.stop(now=True)
        report = await running

        assert (0, 1, 1, 0) == (report.finished, report.released, report.cancelled, report.abandoned)
        async with bridge.source() as source:
            [delivery] = await source.receive(1, 1)
            assert 1 == delivery.attempt, "the release counted as an attempt"
            await source.settle([delivery.release()])


async def test_cancelling_run_drains_first() -> None:
    """Cancelling run() lets handlers finish within the grace, settles them, and only then raises."""
    registry = HandlerRegistry()
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    done: list[int] = []

    @registry.task
    async def work() -> None:
        loop.call_soon_threadsafe(started.set)
        await asyncio.sleep(0.2)
        done.append(1)

    async with QBridge(registry) as bridge:
        await bridge.send("work")
        running = asyncio.create_task(bridge.run())
        await started.wait()

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert [1] == done
        assert (0, 0, 0, 0) == await left_in(bridge)


async def test_leaving_the_bridge_drains_a_run_in_the_background() -> None:
    """The end of `async with` stops a run that goes on in a task of its own, and waits for it."""
    registry = HandlerRegistry()
    done: list[int] = []

    @registry.task
    async def work() -> None:
        await asyncio.sleep(0.1)
        done.append(1)

    async with QBridge(registry) as bridge:
        ended: list[Event] = []
        bridge.events.subscribe(ended.append)
        await bridge.send("work")
        running = asyncio.create_task(bridge.run())
        await asyncio.sleep(0.05)  # long enough for the task to be claimed

    await running
    assert [1] == done
    assert WorkerDrained(finished=1, released=0, abandoned=0) == ended[-1]


async def test_listeners_are_told_of_each_end() -> None:
    """A TaskFinished event says which task ended, how, in which attempt and where."""
    registry = HandlerRegistry()
    events: list[Event] = []

    @registry.task
    async def fail() -> None:
        raise ValueError("no")

    async with QBridge(registry, retry={"max_attempts": 1}) as bridge:
        bridge.events.subscribe(events.append)
        message_id = await bridge.send("fail")
        await bridge.run(burst=True)

    [finished] = [event for event in events if isinstance(event, TaskFinished)]
    assert ("default", "fail", message_id, 1) == (
        finished.queue,
        finished.task,
        finished.message_id,
        finished.attempt,
    )
    assert ("dead_lettered", "exhausted", "default-0") == (finished.outcome, finished.reason, finished.loop_thread)
    assert finished.error.startswith("ValueError: no")


async def test_a_backend_that_is_not_installed_can_be_given_as_an_object() -> None:
    """`backend` may be a Backend: a program's own needs no entry point."""
    registry = HandlerRegistry()
    seen: list[int] = []

    @registry.task
    async def note(number: int) -> None:
        seen.append(number)

    async with QBridge(registry, queues={"default": {"backend": make_backend()}}) as bridge:
        await bridge.send("note", 7)
        await bridge.run(burst=True)

    assert [7] == seen


async def test_use_out_of_order_is_an_error() -> None:
    """Sending before entering or after leaving, entering twice and running twice each say what to do."""
    bridge = QBridge()
    with pytest.raises(BridgeStateError, match=r"after it was entered"):
        await bridge.send("any")
    with pytest.raises(BridgeStateError, match=r"run a bridge on the loop that entered it"):
        await bridge.run()
    with pytest.raises(BridgeStateError, match=r"stop a bridge after it was entered"):
        bridge.stop()
    async with bridge:
        await bridge.run(burst=True)
        with pytest.raises(BridgeStateError, match=r"has run before; make another one"):
            await bridge.run(burst=True)
    with pytest.raises(BridgeStateError, match=r"was entered before; make another one"):
        async with bridge:
            pass
    with pytest.raises(BridgeStateError, match=r"send through a bridge before it is left"):
        await bridge.send("any")
    with pytest.raises(BridgeStateError, match=r"send through a bridge before it is left"):
        await asyncio.to_thread(lambda: asyncio.run(bridge.send("any")))


def test_wrong_settings_are_told_before_anything_starts() -> None:
    """A program's settings are checked like the YAML's, with the nearest name."""
    with pytest.raises(ConfigError) as caught:
        QBridge(queues={"default": {"backend": "memry"}})
    assert "did you mean 'memory'?" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        QBridge(lops={"default": {}})
    assert "did you mean 'loops'?" in str(caught.value)


async def test_stop_before_run_ends_it_at_once() -> None:
    """A stop that comes before run() is not forgotten."""
    async with QBridge() as bridge:
        bridge.stop()
        async with asyncio.timeout(10):
            assert DrainReport() == await bridge.run()


async def test_a_burst_ends_though_a_queue_can_t_be_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stats that hang are given up in time: the queues are taken for empty, as their last claims were."""

    class Silent(MemorySource):
        async def stats(self) -> QueueStats:
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nobody resolves that")

    monkeypatch.setattr(worker, "_COUNT_TIMEOUT", 0.1)
    registry = HandlerRegistry()
    seen: list[int] = []
    registry.task(name="note")(seen.append)
    silent = Backend(
        name="silent",
        summary="a queue that can't be counted",
        options=MemoryOptions,
        capabilities=CAPABILITIES,
        create=lambda name, options: Silent(name, options, broker=options.broker),
        needs={},
        example={},
    )
    async with QBridge(registry, queues={"default": {"backend": silent}}) as bridge:
        await bridge.send("note", 1)

        async with asyncio.timeout(30):
            await bridge.run(burst=True)

    assert [1] == seen
    assert "a queue can't be counted, all are taken for empty" in caplog.messages
