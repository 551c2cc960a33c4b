"""However much hangs at once: a worker ends in time, says what became of each message, and with the right exit code."""

from __future__ import annotations

import re
import signal
import time
from urllib.parse import urlsplit

import pytest

from qbridge.config import ShutdownConfig
from qbridge.service import ExitCode
from qbridge.testing import TcpProxy
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

    @registry.task
    async def work(number: int) -> None:
        print("started", number)
        while not pathlib.Path("go on").exists():
            await asyncio.sleep(0.01)
        print("done", number)

    @registry.task
    async def asking(number: int, context: TaskContext) -> None:
        print("started", number)
        while not pathlib.Path("go on").exists():
            await asyncio.sleep(0.01)
        print("asks", number)
        await context.send("work", 100)

    @registry.task
    async def patient(number: int) -> None:
        print("started", number)
        await asyncio.sleep(600)

    @registry.task
    async def stubborn(number: int) -> None:
        print("started", number)
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                print("not now", number)

    @registry.task
    def threaded(number: int) -> None:
        print("started", number)
        time.sleep(600)

    @registry.task
    async def blocking(number: int) -> None:
        print("started", number)
        time.sleep(600)
"""

#: Seconds that a worker may take beyond its three times, and what a busy machine adds to that.
BEYOND, SLACK = 0.6, 3.0


def configure(service: ServiceFolder, queues: str, shutdown: str, loops: str = "default: {threads: 3}") -> None:
    """Write the service of these tests."""
    service.write("shop_tasks.py", HANDLERS)
    service.write(
        "qbridge.yaml",
        f"handlers: [shop_tasks]\nqueues:\n  default: {queues}\nloops:\n  {loops}\nshutdown: {shutdown}\n",
    )


def summary(worker: WorkerProcess) -> dict[str, float]:
    """Return the numbers of the one line that sums up the drain."""
    [line] = [line for line in worker.log if "worker drained" in line]
    return {key: float(value) for key, value in re.findall(r"(\w+)=([\d.]+)", line)}


def started(count: int, worker: WorkerProcess) -> None:
    """Wait until so many handlers have started."""
    worker.wait_for(lambda lines: sum(line.startswith("started") for line in lines) == count)


def test_the_defaults_fit_into_what_kubernetes_gives() -> None:
    """The three times and the second beyond them are at most 30 seconds."""
    limits = ShutdownConfig()

    assert limits.grace + limits.cancel_grace + limits.flush + 1.0 <= 30.0


@pytest.mark.redis
def test_everything_that_can_hang_at_once_cannot_hold_the_worker(service: ServiceFolder) -> None:
    """A black-holed broker, a handler that sends to it, one that is deaf, a thread and a loop that never go on.

    The worker ends within its three times and a little. Each of the messages that it held is counted once.
    """
    with RedisServer() as server:
        address = urlsplit(server.url)
        with TcpProxy(address.hostname or "", address.port or 0) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/0"
            configure(service, f'{{backend: redis, url: "{url}"}}', "{grace: 1s, cancel_grace: 0.5s, flush: 0.5s}")
            tasks = ["work", "asking", "patient", "stubborn", "threaded", "blocking"]
            for number, task in enumerate(tasks):
                service.send(task, number)
            with WorkerProcess(service.path) as worker:
                started(len(tasks), worker)
                proxy.swallow()
                service.write("go on", "")
                worker.wait_for(lambda lines: {"done 0", "asks 1"} <= set(lines))
                began = time.monotonic()

                worker.signal(signal.SIGTERM)
                code = worker.wait()
                took = time.monotonic() - began

    told = summary(worker)
    assert ExitCode.ABANDONED == code
    assert took < 1.0 + 0.5 + 0.5 + BEYOND + SLACK
    assert told["seconds"] < 1.0 + 0.5 + 0.5 + BEYOND + SLACK / 2
    assert (0, 0, len(tasks)) == (told["finished"], told["released"], told["abandoned"])


def test_each_message_is_counted_once(service: ServiceFolder) -> None:
    """With a broker that lives: what ends is finished, what is cancelled is released, what is deaf is abandoned."""
    configure(service, "{backend: sqlite, path: ./q.db, lease: 60s}", "{grace: 1s, cancel_grace: 0.5s, flush: 2s}")
    tasks = ["work", "work", "patient", "patient", "patient", "stubborn", "threaded"]
    for number, task in enumerate(tasks):
        service.send(task, number)
    with WorkerProcess(service.path) as worker:
        started(len(tasks), worker)
        worker.signal(signal.SIGTERM)
        service.write("go on", "")
        code = worker.wait()

    told = summary(worker)
    assert ExitCode.ABANDONED == code
    assert (2, 3, 2) == (told["finished"], told["released"], told["abandoned"])
    assert (3, 2) == (service.stats().ready, service.stats().in_flight)


def test_whatever_ended_is_settled_if_the_broker_lives(service: ServiceFolder) -> None:
    """Many handlers that end just as the worker leaves: no message is left in flight, and none runs again."""
    configure(
        service,
        "{backend: sqlite, path: ./q.db}",
        "{grace: 20s}",
        loops="default: {concurrency: 200}",
    )
    for number in range(60):
        service.send("work", number)
    with WorkerProcess(service.path) as worker:
        started(60, worker)
        service.write("go on", "")
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    told = summary(worker)
    assert ExitCode.OK == code
    assert (0, 0, 0) == (told["released"], told["abandoned"], service.stats().in_flight + service.stats().ready)


def test_with_fail_fast_a_worker_does_not_wait_for_its_broker(service: ServiceFolder) -> None:
    """Exit code 3, one line that names the queue, and the queue whose broker is there was drained before."""
    service.write("shop_tasks.py", HANDLERS)
    service.write(
        "qbridge.yaml",
        """
        handlers: [shop_tasks]
        queues:
          default: {backend: sqlite, path: ./q.db}
          away: {backend: redis, url: "redis://127.0.0.1:1/0"}
        fail_fast: true
        """,
    )

    with WorkerProcess(service.path) as worker:
        code = worker.wait()

    assert ExitCode.UNREACHABLE == code
    errors = [line for line in worker.log if " error " in line]
    assert 1 == len(errors), worker.log
    assert "a broker can't be reached" in errors[0]
    assert "away" in errors[0]
    assert any("worker drained" in line for line in worker.log)
