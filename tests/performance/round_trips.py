"""What a worker asks of its broker while it drains a queue.

Counted by the broker, or by what stands before it: Redis counts what it reads from its clients, SQLite tells of each
statement, and a proxy before RabbitMQ counts bytes, of which an acknowledgement has 21. The handlers do nothing, so a
batch is as large as the dispatcher makes it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from qbridge import HandlerRegistry, QBridge, TaskMessage
from qbridge.testing import TcpProxy
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

__all__ = ["TASKS", "rabbitmq_bytes", "redis_requests", "sqlite_transactions"]

#: Tasks of the queue that is drained.
TASKS = 2000

_LOOPS = {"default": {"threads": 1, "concurrency": 100, "implementation": "asyncio"}}


def _registry() -> HandlerRegistry:
    registry = HandlerRegistry()

    @registry.task
    async def nothing(number: int) -> None:
        """Do nothing."""

    return registry


def _fill(keys: dict[str, Any]) -> None:
    async def send() -> None:
        async with QBridge(queues={"default": keys}) as bridge:
            await bridge.send_many(TaskMessage(task="nothing", args=[number]) for number in range(TASKS))

    asyncio.run(send())


def _drain(keys: dict[str, Any]) -> None:
    async def work() -> int:
        async with QBridge(_registry(), queues={"default": keys}, loops=_LOOPS) as bridge:
            await bridge.run(burst=True)
            return bridge.tasks_ended

    assert asyncio.run(work()) == TASKS


def redis_requests(server: RedisServer) -> float:
    """Return how often the server reads from the worker, for 1,000 tasks: a pipeline is one request."""

    def reads() -> int:
        return int(server.info("stats")["total_reads_processed"])

    keys = {"backend": "redis", "url": server.url, "key": f"trips.{uuid.uuid4().hex}"}
    _fill(keys)
    of_asking = reads() - reads()
    before = reads()
    _drain(keys)
    return (reads() - before + of_asking) / TASKS * 1000


def rabbitmq_bytes(server: RabbitServer) -> float:
    """Return how many bytes the worker writes to the server, for 1,000 tasks."""
    queue = f"trips.{uuid.uuid4().hex}"
    _fill({"backend": "rabbitmq", "url": server.url, "queue": queue})
    parts = urlsplit(server.url)
    assert parts.port is not None
    with TcpProxy("127.0.0.1", parts.port) as proxy:
        url = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{proxy.port}").geturl()
        _drain({"backend": "rabbitmq", "url": url, "queue": queue})
        return proxy.passed("requests") / TASKS * 1000


def sqlite_transactions(folder: Path) -> float:
    """Return how many transactions the worker commits, for 1,000 tasks."""
    keys = {"backend": "sqlite", "path": str(folder / "trips.db")}
    _fill(keys)
    commits: list[str] = []
    connect = sqlite3.connect

    def connect_and_listen(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
        return connection

    with patch.object(sqlite3, "connect", connect_and_listen):
        _drain(keys)
    return len(commits) / TASKS * 1000
