"""How a worker ends when it is told to: the first signal drains, the second cancels, the third leaves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess

__all__ = ["service"]

HANDLERS = """
    import asyncio
    import pathlib
    import time

    from qbridge import HandlerRegistry, TaskContext

    registry = HandlerRegistry()

    async def until_told(name: str) -> None:
        while not pathlib.Path(name).exists():
            await asyncio.sleep(0.01)

    @registry.task
    async def work(number: int, context: TaskContext) -> None:
        print("started", number, context.attempt)
        try:
            await until_told("go on")
        except asyncio.CancelledError:
            print("cancelled", number)
            raise
        print("done", number)

    @registry.task
    async def stubborn(number: int) -> None:
        print("started", number)
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("not now", number)

    @registry.task
    async def blocking(number: int) -> None:
        print("started", number)
        time.sleep(60)

    @registry.task
    def threaded(number: int) -> None:
        print("started", number)
        time.sleep(60)
"""

STOPS = [signal.SIGTERM, signal.SIGINT]

#: Seconds that a worker may take beyond what it was configured to wait, on a busy machine.
SLACK = 12.0


@pytest.fixture
def worker(service: ServiceFolder) -> WorkerProcess:
    """A worker that has not been started: one handler at a time, a long grace, short limits for all that follows."""
    configure(service, grace="60s")
    return WorkerProcess(service.path)


def configure(service: ServiceFolder, *, grace: str, queue: str = "{backend: sqlite, path: ./q.db, lease: 2s}") -> None:
    """Write the service of these tests."""
    service.write("shop_tasks.py", HANDLERS)
    service.write(
        "qbridge.yaml",
        f"""
        handlers: [shop_tasks]
        queues:
          default: {queue}
        loops:
          default: {{concurrency: 2}}
        shutdown: {{grace: {grace}, cancel_grace: 0.5s, flush: 1s}}
        """,
    )


def started(count: int) -> Callable[[list[str]], bool]:
    """Return a condition: so many handlers have started."""
    return lambda lines: sum(line.startswith("started") for line in lines) == count


def logged(worker: WorkerProcess, text: str) -> Callable[[list[str]], bool]:
    """Return a condition: the worker has logged a text."""
    return lambda _: any(text in line for line in worker.log)


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_the_first_signal_drains(service: ServiceFolder, worker: WorkerProcess, stop: signal.Signals) -> None:
    """What runs is finished, what has not started is back in the queue with no attempt counted, and the end is 0."""
    for number in range(5):
        service.send("work", number)
    with worker:
        worker.wait_for(started(2))

        worker.signal(stop)
        worker.wait_for(logged(worker, "draining"))
        service.write("go on", "")
        code = worker.wait()

    assert ExitCode.OK == code
    assert ["done 0", "done 1"] == sorted(line for line in worker.lines if line.startswith("done"))
    assert (3, 0) == (service.stats().ready, service.stats().in_flight)
    assert [2, 3, 4] == [message.args[0] for message in service.take(count=9)]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_an_idle_worker_ends_at_once(worker: WorkerProcess, stop: signal.Signals) -> None:
    """A worker that has nothing to do waits for nothing."""
    with worker:
        worker.wait_until_ready()
        began = time.monotonic()

        worker.signal(stop)
        code = worker.wait()

    assert ExitCode.OK == code
    assert time.monotonic() - began < SLACK


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_a_worker_that_is_still_importing_ends_at_once(service: ServiceFolder, stop: signal.Signals) -> None:
    """Before anything was started a signal has nothing to drain: the process ends by it, without a traceback."""
    service.write("shop_tasks.py", "import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    with WorkerProcess(service.path) as worker:
        worker.wait_for(lambda lines: lines == ["importing"])

        worker.signal(stop)
        code = worker.wait()

    assert (130 if stop is signal.SIGINT else -signal.SIGTERM) == code
    assert [] == worker.log


def test_what_outlives_the_grace_is_cancelled_and_put_back(service: ServiceFolder) -> None:
    """After the grace handlers are cancelled, their messages are ready again as if never tried, and the end is 5."""
    configure(service, grace="0.2s")
    service.send("work", 1)
    with WorkerProcess(service.path) as worker:
        worker.wait_for(started(1))

        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert ExitCode.GRACE_EXCEEDED == code
    assert ["started 1 1", "cancelled 1"] == worker.lines
    assert (1, 0) == (service.stats().ready, service.stats().in_flight)
    with WorkerProcess(service.path) as second:
        second.wait_for(started(1))
    assert "started 1 1" == second.lines[0], "the attempt was counted"


def test_the_second_signal_cancels(service: ServiceFolder, worker: WorkerProcess) -> None:
    """A second signal ends a grace that is far from over."""
    service.send("work", 1)
    with worker:
        worker.wait_for(started(1))
        worker.signal(signal.SIGINT)
        worker.wait_for(logged(worker, "draining"))
        began = time.monotonic()

        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert ExitCode.GRACE_EXCEEDED == code
    assert time.monotonic() - began < SLACK
    assert ["started 1 1", "cancelled 1"] == worker.lines
    assert 1 == service.stats().ready


@pytest.mark.parametrize("task", ["stubborn", "blocking", "threaded"])
def test_a_handler_that_does_not_end_cannot_hold_the_worker(
    service: ServiceFolder, worker: WorkerProcess, task: str
) -> None:
    """One that swallows its cancellation, blocks its loop or runs in a thread is left behind, and the end is 6."""
    service.send(task, 1)
    with worker:
        worker.wait_for(started(1))
        worker.signal(signal.SIGTERM)
        worker.wait_for(logged(worker, "draining"))
        began = time.monotonic()

        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert ExitCode.ABANDONED == code
    assert time.monotonic() - began < SLACK


def test_what_was_left_behind_comes_back(service: ServiceFolder, worker: WorkerProcess) -> None:
    """A message whose handler did not end is another worker's when its lease runs out."""
    service.send("stubborn", 1)
    with worker:
        worker.wait_for(started(1))
        worker.signal(signal.SIGTERM)
        worker.wait_for(logged(worker, "draining"))  # two signals at once are one
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    with WorkerProcess(service.path) as second:
        second.wait_for(started(1))

    assert ExitCode.ABANDONED == code
    assert "started 1" == second.lines[0]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_the_third_signal_leaves_at_once(service: ServiceFolder, worker: WorkerProcess, stop: signal.Signals) -> None:
    """A third signal waits for nothing, not even for a loop that is blocked; the exit code is the signal's."""
    service.send("stubborn", 1)
    with worker:
        worker.wait_for(started(1))
        worker.signal(stop)
        worker.wait_for(logged(worker, "draining"))
        worker.signal(stop)
        worker.wait_for(lambda lines: "not now 1" in lines)
        began = time.monotonic()

        worker.signal(stop)
        code = worker.wait()

    assert 128 + stop == code
    assert time.monotonic() - began < 3


def test_a_broker_that_is_not_there_cannot_hold_the_worker(service: ServiceFolder) -> None:
    """A worker whose broker was never reached ends with 0 at the first signal, for it has nothing to lose."""
    configure(service, grace="60s", queue='{backend: redis, url: "redis://127.0.0.1:1/0"}')
    with WorkerProcess(service.path) as worker:
        worker.wait_for(logged(worker, "source"))
        began = time.monotonic()

        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert ExitCode.OK == code
    assert time.monotonic() - began < SLACK


@pytest.mark.redis
def test_a_broker_that_dies_cannot_hold_the_worker(service: ServiceFolder) -> None:
    """Finished work that the broker can't be told of is abandoned after shutdown.flush, and the end is 6."""
    with RedisServer() as server:
        configure(service, grace="60s", queue=f'{{backend: redis, url: "{server.url}"}}')
        service.send("work", 1)
        with WorkerProcess(service.path) as worker:
            worker.wait_for(started(1))
            server.stop()
            service.write("go on", "")
            worker.wait_for(lambda lines: "done 1" in lines)
            began = time.monotonic()

            worker.signal(signal.SIGTERM)
            code = worker.wait()

    assert ExitCode.ABANDONED == code
    assert time.monotonic() - began < SLACK
