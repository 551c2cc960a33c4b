"""The brokers of the benchmark: servers of its own on the loopback interface, empty at the start of each run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

__all__ = ["BROKERS", "Brokers"]

#: By their names, what is measured of each.
BROKERS = {
    "redis": "Redis with an append-only file, synced each second",
    "rabbitmq": "RabbitMQ, one node",
    "sqlite": "SQLite, one file",
    "memory": "no broker: sender and worker in one process",
}

#: The append-only file of one run is thrown away with its server; a rewrite beside a run would disturb it.
REDIS_ARGUMENTS = ("--auto-aof-rewrite-percentage", "0")

#: Erlang that deletes the virtual host of the run before and makes the next one.
_NEXT_HOST = (
    'catch rabbit_vhost:delete(<<"bench{old}">>, <<"benchmark">>), '
    'rabbit_vhost:add(<<"bench{new}">>, <<"benchmark">>), '
    "rabbit_auth_backend_internal:set_permissions("
    '<<"guest">>, <<"bench{new}">>, <<".*">>, <<".*">>, <<".*">>, <<"benchmark">>).'
)


class Brokers:
    """Gives each run a broker that is empty. As a context manager it ends its servers on exit.

    Redis is a server for each run, since one starts at once. RabbitMQ takes seconds to start: it is one server, and
    each run gets a virtual host of its own, which is deleted when the next one needs another.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._rabbit: RabbitServer | None = None
        self._hosts = 0

    def __enter__(self) -> Brokers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def fresh(self, broker: str) -> Iterator[str]:
        """Give the URL of an empty broker, or a path for SQLite; what was put into it is not there for the next one."""
        if broker == "redis":
            with RedisServer(arguments=REDIS_ARGUMENTS) as server:
                yield server.url
        elif broker == "rabbitmq":
            yield self._virtual_host()
        elif broker == "sqlite":
            with tempfile.TemporaryDirectory(prefix="qbridge-bench-") as folder:
                yield str(Path(folder) / "queue.db")
        else:
            yield ""

    def _virtual_host(self) -> str:
        if self._rabbit is None:
            self._rabbit = self._stack.enter_context(RabbitServer())
        # One call for both, since a call takes two seconds; the last host goes with its server.
        self._rabbit.ctl("eval", _NEXT_HOST.format(old=self._hosts, new=self._hosts + 1))
        self._hosts += 1
        return f"{self._rabbit.url}bench{self._hosts}"
