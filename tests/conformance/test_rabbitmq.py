"""The RabbitMQ backend keeps the rules, on a real server, with both types of queue."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from qbridge import QueueSource
from qbridge.testing import SourceConformance
from qbridge_rabbitmq import RabbitOptions, RabbitSource, backend
from tests.conformance.dying_consumer import kill_consumers_process
from tests.support.rabbitmq_server import RabbitServer

pytestmark = pytest.mark.rabbitmq

_TESTS = 80  # at least as many as the kit has


@pytest.fixture(scope="module")
def quorum_queues(rabbitmq_server: RabbitServer) -> Iterator[str]:
    """Names of empty quorum queues. They were made at once, as the first `send` to a new one waits until it is safe."""

    async def make(names: list[str]) -> None:
        for name in names:
            source = RabbitSource(name, RabbitOptions.model_validate({"url": rabbitmq_server.url}))
            await source.open()
            await source.close()

    names = [f"queue-{uuid.uuid4().hex}" for _ in range(_TESTS)]
    asyncio.run(make(names))
    return iter(names)


class TestRabbit(SourceConformance):
    """The RabbitMQ backend on quorum queues."""

    capabilities = backend.capabilities
    untold = frozenset({"in_flight", "oldest_age"})
    queue_type = "quorum"

    @pytest.fixture(autouse=True)
    def _queue(self, rabbitmq_server: RabbitServer, quorum_queues: Iterator[str]) -> None:
        """Give each test a queue of its own."""
        self.server = rabbitmq_server
        self.queue = next(quorum_queues) if self.queue_type == "quorum" else f"queue-{uuid.uuid4().hex}"

    def new_source(self, lease: float) -> RabbitSource:
        """Make a source of that queue; its lease is its connection."""
        return RabbitSource(self.queue, RabbitOptions.model_validate(self._options()))

    def new_unreachable_source(self) -> RabbitSource:
        """Make a source for a port on which nobody listens."""
        return RabbitSource(self.queue, RabbitOptions.model_validate({"url": "amqp://127.0.0.1:1/"}))

    async def restart(self) -> None:
        """Kill the server and start it on its files."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)

    async def cut(self, source: QueueSource) -> None:
        """Let the server close the connections of all clients, of which this test has one source's."""
        await asyncio.to_thread(self.server.ctl, "close_all_connections", "cut by a test")

    async def kill_consumer(self, count: int) -> None:
        """Kill a process that has claimed."""
        await kill_consumers_process("rabbitmq", self.queue, self._options(), count)

    def _options(self) -> dict[str, object]:
        return {"url": self.server.url, "queue_type": self.queue_type}


class TestRabbitClassic(TestRabbit):
    """The RabbitMQ backend on classic queues."""

    queue_type = "classic"

    async def restart(self) -> None:
        """Stop the server and start it again: killed, it forgets what a classic queue's workers have just acknowledged.

        That makes doubles and loses nothing.
        """
        await asyncio.to_thread(self.server.restart)
