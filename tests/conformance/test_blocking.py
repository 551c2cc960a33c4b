"""BlockingSource keeps the rules of the contract, whether its author looks for messages or blocks for them."""

from __future__ import annotations

from qbridge import QueueSource
from qbridge.testing import SourceConformance
from qbridge_memory import MemoryBroker, MemoryOptions
from tests.support.blocking_memory import CAPABILITIES, BlockingMemorySource, WakeableMemorySource


class TestBlockingThatLooks(SourceConformance):
    """A source whose `do_receive` only looks."""

    capabilities = CAPABILITIES
    short_lease = 0.3
    delay = 0.2
    source_type: type[BlockingMemorySource] = BlockingMemorySource

    def setup_method(self) -> None:
        """Give each test a queue of its own."""
        self.broker = MemoryBroker()
        self.sources: list[BlockingMemorySource] = []

    def new_source(self, lease: float) -> BlockingMemorySource:
        """Make a source of that queue."""
        source = self.source_type("q", MemoryOptions(lease=lease), broker=self.broker)
        self.sources.append(source)
        return source

    def new_unreachable_source(self) -> BlockingMemorySource:
        """Make a source whose connection is refused."""
        source = self.new_source(self.short_lease)
        source.is_reachable = False
        return source

    async def restart(self) -> None:
        """Cut every connection; the queue is kept."""
        for source in self.sources:
            if source.client is not None:
                source.client.cut()

    async def cut(self, source: QueueSource) -> None:
        """Cut the connection of one source."""
        assert isinstance(source, BlockingMemorySource)
        source.connected.cut()

    async def kill_consumer(self, count: int) -> None:
        """Claim, and never be heard of again."""
        self.broker.queue("q").claim(count, self.short_lease)


class TestBlockingThatWaits(TestBlockingThatLooks):
    """A source whose `do_receive` blocks, and can be woken."""

    source_type = WakeableMemorySource
