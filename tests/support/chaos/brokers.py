"""The brokers of campaigns: a real server each, or a file, and the keys of a queue on it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

__all__ = ["LEASE", "Broker", "rabbitmq_broker", "redis_broker", "sqlite_broker"]

#: Seconds after which a worker without a sign of life loses its messages: by a lease, on RabbitMQ by heartbeats.
LEASE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where the messages of a campaign are.

    Attributes:
        backend: The backend's name.
        queue: The keys of the queue, `backend` among them.
        retrying: Seconds after a failure in which the message is out of its worker's hands.
        redis: The server, for faults of Redis.
        rabbitmq: The server, for faults of RabbitMQ.
        path: The file, for faults of SQLite.
    """

    backend: str
    queue: dict[str, Any]
    retrying: float = 1.0
    redis: RedisServer | None = None
    rabbitmq: RabbitServer | None = None
    path: Path | None = None


def sqlite_broker(folder: Path) -> Broker:
    """Return a file of one's own."""
    path = folder / "q.db"
    return Broker(backend="sqlite", queue={"backend": "sqlite", "path": str(path), "lease": f"{LEASE}s"}, path=path)


@contextmanager
def redis_broker() -> Iterator[Broker]:
    """Start a Redis of one's own that keeps all that it has accepted, even if it is killed."""
    with RedisServer(sync_always=True) as server:
        queue = {"backend": "redis", "url": server.url, "key": "q", "lease": f"{LEASE}s"}
        yield Broker(backend="redis", queue=queue, redis=server)


def rabbitmq_broker(server: RabbitServer) -> Broker:
    """Return a queue of one's own on a RabbitMQ."""
    queue = {
        "backend": "rabbitmq",
        "url": server.url,
        "queue": f"chaos.{uuid.uuid4().hex}",
        "heartbeat": f"{LEASE}s",
    }
    # A worker keeps the original of a retried message until the delay queue that has the copy is 1.5 s old: a broker
    # that is killed may lose a younger one.
    return Broker(backend="rabbitmq", queue=queue, retrying=2.5, rabbitmq=server)
