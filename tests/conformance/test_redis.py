"""The Redis backend keeps the rules, on a real server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from qbridge import QueueSource
from qbridge.testing import SourceConformance
from qbridge_redis import RedisOptions, RedisSource, backend
from tests.conformance.dying_consumer import kill_consumers_process
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A server with an append-only file."""
    with RedisServer() as server:
        yield server


class TestRedis(SourceConformance):
    """The Redis backend and a redis-server."""

    capabilities = backend.capabilities
    #: After the start of a server a source takes nothing from others for one lease of its own, so that living workers
    #: can renew theirs first: the tests must be patient for longer than that.
    long_lease = 4.0

    @pytest.fixture(autouse=True)
    def _key(self, redis_server: RedisServer) -> None:
        """Give each test a key of its own."""
        self.server = redis_server
        self.key = f"queue-{uuid.uuid4().hex}"

    def new_source(self, lease: float) -> RedisSource:
        """Make a source of that key."""
        return RedisSource(self.key, RedisOptions.model_validate(self._options(lease)))

    def new_unreachable_source(self) -> RedisSource:
        """Make a source for a port on which nobody listens."""
        return RedisSource(self.key, RedisOptions.model_validate({"url": "redis://127.0.0.1:1/0"}))

    async def restart(self) -> None:
        """Kill the server and start it on its files."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)

    async def cut(self, source: QueueSource) -> None:
        """Let the server close the connections of all clients, of which this test has one source's."""
        await asyncio.to_thread(self.server.cli, "CLIENT", "KILL", "TYPE", "normal")

    async def kill_consumer(self, count: int) -> None:
        """Kill a process that has claimed."""
        await kill_consumers_process("redis", self.key, self._options(self.short_lease), count)

    def _options(self, lease: float) -> dict[str, object]:
        return {"url": self.server.url, "key": self.key, "lease": lease}
