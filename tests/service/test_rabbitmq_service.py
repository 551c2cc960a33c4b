"""A worker service on a real RabbitMQ: blocking handlers, two brokers at once, foreign producers, and its end."""

from __future__ import annotations

import asyncio
import signal
import textwrap
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from qbridge import QBridge, QueueStats, TaskMessage, load_config
from qbridge.service import ExitCode
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer
from tests.support.run_ledger import LEDGER, Ledger
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.rabbitmq

#: Seconds for anything that is waited for, on a busy machine.
PATIENCE = 30.0

#: Seconds of the shortest heartbeat that these tests ask for.
HEARTBEAT = 2

#: Seconds that a handler blocks for: over three heartbeats, and longer than pika takes to look (a heartbeat and 5 s).
BLOCKED = 8

#: Seconds in which a worker must leave that waits for 1 s of grace, 0.5 s of cancelling and 1 s of settling: what
#: closes connections and threads has limits of its own, and the machine may be busy.
LIMIT = 12

#: Hops of a chain of tasks, and chains.
HOPS, CHAINS = 6, 40

HANDLERS = (
    LEDGER
    + f"""
import asyncio, json, pathlib, time

@registry.task
async def block(context: TaskContext) -> None:
    note("start", context)
    time.sleep({BLOCKED})
    note("end", context)

@registry.task
async def hop(chain: int, left: int, context: TaskContext) -> None:
    print(context.queue, chain, left)
    if left:
        other = "right" if context.queue == "left" else "left"
        await context.send("hop", chain, left - 1, queue=other)

@registry.task
async def show(body: str, context: TaskContext) -> None:
    print(json.dumps([body, dict(context.headers)]))

@registry.task
async def wait(context: TaskContext) -> None:
    note("start", context)
    while not pathlib.Path("go on").exists():
        await asyncio.sleep(0.01)
    note("end", context)
"""
)


@pytest.fixture
def new_queue(rabbitmq_server: RabbitServer) -> Callable[..., str]:
    """Return a function that returns the keys of a queue of the test's own, as YAML."""

    def keys(more: str = "") -> str:
        return f'{{backend: rabbitmq, url: "{rabbitmq_server.url}", queue: service.{uuid.uuid4().hex}{more}}}'

    return keys


@pytest.fixture
def other_broker(request: pytest.FixtureRequest) -> Iterator[str]:
    """The keys of a queue on another broker, as YAML."""
    if request.param == "sqlite":
        yield "{backend: sqlite, path: ./q.db}"
        return
    with RedisServer() as redis:
        yield f'{{backend: redis, url: "{redis.url}", key: q}}'


def write_service(folder: Path, queues: dict[str, str], *, concurrency: int = 100, grace: str = "60s") -> None:
    """Write a worker's YAML file and handlers."""
    lines = "".join(f"  {name}: {keys}\n" for name, keys in queues.items())
    (folder / "qbridge.yaml").write_text(
        f"handlers: [ledger_tasks]\nqueues:\n{lines}loops:\n  default: {{concurrency: {concurrency}}}\n"
        f"shutdown: {{grace: {grace}, cancel_grace: 0.5s, flush: 1s}}\n"
    )
    (folder / "ledger_tasks.py").write_text(textwrap.dedent(HANDLERS))


async def send(folder: Path, queue: str, *tasks: TaskMessage) -> list[str]:
    """Send tasks; return their ids."""
    async with QBridge.from_config(None, load_config(folder / "qbridge.yaml")) as bridge:
        return await bridge.send_many(tasks, queue=queue)


async def stats(folder: Path, queue: str) -> QueueStats:
    """Count what is in a queue."""
    bridge = QBridge.from_config(None, load_config(folder / "qbridge.yaml"))
    async with bridge, bridge.source(queue) as source:
        return await source.stats()


def left(folder: Path, queue: str) -> tuple[int, int, int, int]:
    """Return how many messages are ready, delayed, in flight and dead."""
    found = asyncio.run(stats(folder, queue))
    return found.ready, found.delayed, found.in_flight, found.dead


def started(count: int) -> Callable[[Ledger], bool]:
    """Return a condition: so many handlers have started."""
    return lambda ledger: ledger.count["start"] == count


def drained(worker: WorkerProcess) -> int:
    """Let a worker drain; return its exit code."""
    worker.signal(signal.SIGTERM)
    return worker.wait()


def test_a_handler_that_blocks_for_three_heartbeats_costs_no_connection(
    new_queue: Callable[..., str], tmp_path: Path
) -> None:
    """While a handler blocks its loop the connection lives: its message is run once and settled."""
    write_service(tmp_path, {"default": new_queue(f", heartbeat: {HEARTBEAT}s")})
    [message_id] = asyncio.run(send(tmp_path, "default", TaskMessage(task="block")))
    ledger = Ledger(tmp_path)
    with WorkerProcess(tmp_path) as worker:
        ledger.wait(lambda book: book.count["end"], timeout=PATIENCE, why=lambda: worker.log)
        code = drained(worker)

    assert ExitCode.OK == code
    assert [("start", message_id, 1), ("end", message_id, 1)] == [
        (entry.kind, entry.message_id, entry.attempt) for entry in ledger.read().entries
    ]
    assert not [line for line in worker.log if "source lost" in line or "too late" in line]
    assert (0, 0, 0, 0) == left(tmp_path, "default")


@pytest.mark.parametrize(
    "other_broker", ["sqlite", pytest.param("redis", marks=pytest.mark.redis)], indirect=True, ids=str
)
def test_handlers_send_to_a_queue_on_another_broker(
    new_queue: Callable[..., str], other_broker: str, tmp_path: Path
) -> None:
    """Chains of tasks go back and forth between two brokers in one service: each hop runs once, nothing is left."""
    write_service(tmp_path, {"left": new_queue(), "right": other_broker})
    asyncio.run(send(tmp_path, "left", *(TaskMessage(task="hop", args=[chain, HOPS]) for chain in range(CHAINS))))
    with WorkerProcess(tmp_path) as worker:
        worker.wait_for(lambda lines: len(lines) >= CHAINS * (HOPS + 1))
        code = drained(worker)

    expected = Counter(
        f"{('left', 'right')[hop % 2]} {chain} {HOPS - hop}" for chain in range(CHAINS) for hop in range(HOPS + 1)
    )
    assert ExitCode.OK == code
    assert expected == Counter(worker.lines)
    assert [(0, 0, 0, 0)] * 2 == [left(tmp_path, "left"), left(tmp_path, "right")]


def test_any_amqp_client_can_produce(rabbitmq_server: RabbitServer, tmp_path: Path) -> None:
    """A plain body with headers, published by a client that knows nothing of qbridge, reaches a handler whole."""
    name = f"service.{uuid.uuid4().hex}"
    keys = f'backend: rabbitmq, url: "{rabbitmq_server.url}", queue: {name}, codec: {{type: raw, task: show}}'
    write_service(tmp_path, {"default": f"{{{keys}}}"})
    with WorkerProcess(tmp_path) as worker:
        worker.wait_until_ready()

        publish(rabbitmq_server, name, "grüße, ¡no JSON!".encode(), {"tenant": "blue", "priority": 7})
        publish(rabbitmq_server, name, b"no headers", None)
        worker.wait_for(lambda lines: len(lines) == 2)
        code = drained(worker)

    assert ExitCode.OK == code
    assert [
        '["gr\\u00fc\\u00dfe, \\u00a1no JSON!", {"tenant": "blue", "priority": "7"}]',
        '["no headers", {}]',
    ] == worker.lines
    assert (0, 0, 0, 0) == left(tmp_path, "default")


def publish(server: RabbitServer, queue: str, body: bytes, headers: dict[str, Any] | None) -> None:
    """Publish as any program does, with nothing set that isn't needed."""
    connection = pika.BlockingConnection(pika.URLParameters(server.url))
    try:
        properties = pika.BasicProperties(headers=headers)
        connection.channel().basic_publish(exchange="", routing_key=queue, body=body, properties=properties)
    finally:
        connection.close()


def test_a_drain_puts_back_at_once_what_has_not_started(new_queue: Callable[..., str], tmp_path: Path) -> None:
    """While what runs is finished, what was only claimed is in the queue again, with no attempt counted."""
    write_service(tmp_path, {"default": new_queue(", read_ahead: 50")}, concurrency=2)
    ids = asyncio.run(send(tmp_path, "default", *(TaskMessage(task="wait") for _ in range(20))))
    ledger = Ledger(tmp_path)
    with WorkerProcess(tmp_path) as worker:
        ledger.wait(started(2), timeout=PATIENCE, why=lambda: worker.log)
        until(lambda: left(tmp_path, "default")[0] == 0)  # all are claimed

        worker.signal(signal.SIGTERM)
        until(lambda: left(tmp_path, "default")[0] == 18)
        assert {"start": 2} == ledger.read().count
        (tmp_path / "go on").touch()
        code = worker.wait()

    assert ExitCode.OK == code
    assert {"start": 2, "end": 2} == ledger.read().count
    with WorkerProcess(tmp_path, "--burst") as second:
        assert ExitCode.OK == second.wait()
    assert dict.fromkeys(ids, 1) == ledger.read().ids("start")
    assert {1} == {entry.attempt for entry in ledger.entries}, "a message that had not started was counted as tried"
    assert (0, 0, 0, 0) == left(tmp_path, "default")


@pytest.mark.parametrize("is_finished", [True, False], ids=["what ran has ended", "what ran goes on"])
def test_a_frozen_broker_cannot_hold_the_worker(
    rabbitmq_server: RabbitServer, new_queue: Callable[..., str], tmp_path: Path, is_finished: bool
) -> None:
    """A worker whose broker hangs leaves in time with a documented code, and each message is run to its end."""
    write_service(tmp_path, {"default": new_queue(", read_ahead: 50")}, concurrency=2, grace="1s")
    ids = asyncio.run(send(tmp_path, "default", *(TaskMessage(task="wait") for _ in range(10))))
    ledger = Ledger(tmp_path)
    with WorkerProcess(tmp_path) as worker:
        ledger.wait(started(2), timeout=PATIENCE, why=lambda: worker.log)
        rabbitmq_server.freeze()
        try:
            if is_finished:
                (tmp_path / "go on").touch()
                ledger.wait(lambda book: book.count["end"] >= 2, timeout=PATIENCE, why=lambda: worker.log)
            began = time.monotonic()
            code = drained(worker)
            took = time.monotonic() - began
        finally:
            rabbitmq_server.thaw()
    (tmp_path / "go on").touch()
    with WorkerProcess(tmp_path, "--burst") as second:
        assert ExitCode.OK == second.wait()

    # Nobody confirms an acknowledgement: one that the broker has not read yet may count as settled. A copy that is put
    # back must be confirmed.
    assert code in ({ExitCode.OK, ExitCode.ABANDONED} if is_finished else {ExitCode.ABANDONED}), worker.log
    assert took < LIMIT
    assert set(ids) == set(ledger.read().ids("end"))
    assert (0, 0, 0, 0) == left(tmp_path, "default")


def until(is_so: Callable[[], bool]) -> None:
    """Ask again until it is so: a broker tells nobody of its counts."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.02)
