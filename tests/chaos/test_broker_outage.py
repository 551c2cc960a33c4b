"""A broker that goes away and comes back: handlers run on, nothing is lost, and the log tells of it once.

`QBRIDGE_CHAOS_OUTAGE` sets for how many seconds it is away at least; otherwise no longer than a few vain attempts take.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qbridge import QBridge, TaskMessage
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer
from tests.support.run_ledger import LEDGER, Ledger
from tests.support.worker_process import WorkerProcess

OUTAGE = float(os.environ.get("QBRIDGE_CHAOS_OUTAGE", "0"))

#: Tasks of each kind.
TASKS = 20

#: Seconds for anything that is waited for, on a busy machine.
PATIENCE = 40.0

#: A task ends when there is a file of the name that it was given.
HANDLERS = (
    LEDGER
    + """
import asyncio, pathlib

@registry.task
async def hold(until: str, context: TaskContext) -> None:
    note("start", context)
    while not pathlib.Path(until).exists():
        await asyncio.sleep(0.01)
    note("end", context)
"""
)

#: All that a worker logs in these tests.
TOLD = [
    "worker started",
    "source ready",
    "source lost, reconnecting",
    "source is back",
    "settlements came too late, their messages run again",
    "draining, a second signal cancels the handlers",
    "worker drained",
]

SERVICE = """
handlers: [ledger_tasks]
queues:
  default: {{{keys}}}
loops:
  default: {{concurrency: 200}}
"""


@dataclass
class Broker:
    """A server, the keys of a queue on it, and how many vain attempts to connect to wait for while it is away."""

    server: RedisServer | RabbitServer
    queue: dict[str, Any]
    attempts: int


@pytest.fixture(
    params=[pytest.param("redis", marks=pytest.mark.redis), pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]
)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker that keeps what it was given on its disk. It runs again afterwards."""
    if request.param == "redis":
        with RedisServer() as redis:
            yield Broker(redis, {"backend": "redis", "url": redis.url, "key": "q", "lease": "90s"}, attempts=3)
        return
    rabbit: RabbitServer = request.getfixturevalue("rabbitmq_server")
    queue = {"backend": "rabbitmq", "url": rabbit.url, "queue": f"outage.{uuid.uuid4().hex}"}
    try:
        yield Broker(rabbit, queue, attempts=1)  # beside all those that are vain while it takes its time to end
    finally:
        rabbit.start()


@pytest.mark.timeout(120 + OUTAGE)
def test_a_worker_outlives_its_broker(broker: Broker, tmp_path: Path) -> None:
    """Handlers end during an outage and after it, their messages are settled or run again, and new ones are taken."""
    write_service(tmp_path, broker.queue)
    ledger = Ledger(tmp_path)
    ended_without_broker = send(broker.queue, "outage")
    ended_with_broker_back = send(broker.queue, "return")
    with WorkerProcess(tmp_path) as worker:
        ledger.wait(lambda book: book.count["start"] == 2 * TASKS, timeout=PATIENCE, why=lambda: worker.log)

        gone_at = time.monotonic()
        broker.server.stop()
        (tmp_path / "outage").touch()
        ledger.wait(lambda book: book.count["end"] == TASKS, timeout=PATIENCE, why=lambda: worker.log)
        refused = refuse(broker.server.port, broker.attempts, until=gone_at + OUTAGE)
        broker.server.start()
        back_at = time.monotonic()
        worker_logs(worker, "source is back")
        print(
            f"\n{broker.queue['backend']}: away for {back_at - gone_at:.1f} s, hung up {refused} times, "
            f"seen again after {time.monotonic() - back_at:.1f} s"
        )
        (tmp_path / "return").touch()
        sent_afterwards = send(broker.queue, "return")
        every = ended_without_broker | ended_with_broker_back | sent_afterwards
        ledger.wait(lambda book: book.ids("end").keys() >= every, timeout=PATIENCE, why=lambda: worker.log)
        asyncio.run(until_nothing_is_left(broker.queue))
        worker.signal(signal.SIGTERM)
        assert 0 == worker.wait()

    first_runs = {entry.message_id for entry in ledger.read().entries if entry[::3] == ("end", 1)}
    running = ended_without_broker | ended_with_broker_back
    assert running <= first_runs, "a handler that was running did not end"
    if broker.queue["backend"] == "redis":  # the lease outlived the outage
        assert dict.fromkeys(every, 1) == ledger.ids("start"), "a message was run again, or never"
    assert (0, 0, 0, 0) == asyncio.run(count_left(broker.queue))
    assert 1 == sum("source lost, reconnecting" in line for line in worker.log), worker.log
    assert 1 == sum("source is back" in line for line in worker.log), worker.log
    assert [] == [line for line in worker.log if not any(text in line for text in TOLD)], "the log tells of attempts"


def write_service(folder: Path, queue: Mapping[str, Any]) -> None:
    """Write a worker's YAML file and handlers."""
    keys = ", ".join(f"{key}: '{value}'" for key, value in queue.items())
    (folder / "qbridge.yaml").write_text(SERVICE.format(keys=keys))
    (folder / "ledger_tasks.py").write_text(HANDLERS)


def send(queue: Mapping[str, Any], until: str) -> set[str]:
    """Send tasks that end when a file is there; return their ids."""

    async def sending() -> set[str]:
        async with QBridge(queues={"default": queue}) as bridge:
            return set(await bridge.send_many(TaskMessage(task="hold", args=[until]) for _ in range(TASKS)))

    return asyncio.run(sending())


def refuse(port: int, attempts: int, *, until: float) -> int:
    """In the broker's place hang up on all who come, so many times at least and until a moment; return how often."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        refused = 0
        while refused < attempts or time.monotonic() < until:
            listener.settimeout(PATIENCE if refused < attempts else max(0.01, until - time.monotonic()))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                assert refused >= attempts, "the worker does not try to connect"
                break
            connection.close()
            refused += 1
    return refused


def worker_logs(worker: WorkerProcess, text: str) -> None:
    """Wait until the worker has logged a text."""
    worker.wait_for(lambda _: any(text in line for line in worker.log), PATIENCE)


async def until_nothing_is_left(queue: Mapping[str, Any]) -> None:
    """Wait until all is settled."""
    async with QBridge(queues={"default": queue}) as bridge, bridge.source() as source, asyncio.timeout(PATIENCE):
        while (stats := await source.stats()).ready + stats.delayed + stats.in_flight:  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.05)


async def count_left(queue: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return how many messages are ready, delayed, in flight and dead."""
    async with QBridge(queues={"default": queue}) as bridge, bridge.source() as source:
        stats = await source.stats()
    return stats.ready, stats.delayed, stats.in_flight, stats.dead
