"""What the tests of the kit itself stand on: a healthy source, its kit, and the list of sources that break rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from qbridge import Delivery, QueueSource, SourceUnavailable
from qbridge.testing import SourceConformance
from qbridge_memory import ManualClock, MemoryBroker, MemoryOptions, MemorySource, backend

__all__ = ["BROKEN", "Broken", "HealthyKit", "HealthySource", "breaks"]


class HealthySource(MemorySource):
    """A memory source with a connection that can be cut, so that the rules of outages apply to it as well."""

    capabilities = replace(backend.capabilities, durable=True, shared=True)

    def __init__(self, name: str, options: MemoryOptions, *, broker: MemoryBroker) -> None:
        super().__init__(name, options, broker=broker)
        self.is_cut = False
        self.is_reachable = True

    async def open(self) -> None:
        """Connect."""
        if not self.is_reachable:
            raise SourceUnavailable("nobody answers")
        self.is_cut = False
        await super().open()

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim, over the connection."""
        deliveries = await super().receive(limit, wait)
        if self.is_cut:
            raise SourceUnavailable("the connection was cut")
        return deliveries

    def cut(self) -> None:
        """Break the connection."""
        self.is_cut = True
        self.wake()


class HealthyKit(SourceConformance):
    """The conformance kit for a `HealthySource`, or for one that differs from it in what it breaks."""

    capabilities = HealthySource.capabilities
    short_lease = 0.3
    delay = 0.2
    source_type: type[HealthySource] = HealthySource

    def setup_method(self) -> None:
        """Give each test a queue and a clock of its own."""
        self.clock = ManualClock()
        self.broker = MemoryBroker(clock=self.clock)
        self.sources: list[HealthySource] = []

    def new_source(self, lease: float) -> HealthySource:
        """Make a source of the test's queue."""
        source = self.source_type("q", MemoryOptions(lease=lease), broker=self.broker)
        self.sources.append(source)
        return source

    def new_unreachable_source(self) -> HealthySource:
        """Make a source whose connection is refused."""
        source = self.new_source(self.short_lease)
        source.is_reachable = False
        return source

    async def restart(self) -> None:
        """Cut every connection; the queue is kept."""
        for source in self.sources:
            source.cut()

    async def cut(self, source: QueueSource) -> None:
        """Cut the connection of one source."""
        assert isinstance(source, HealthySource)
        source.cut()

    async def kill_consumer(self, count: int) -> None:
        """Claim, and never be heard of again."""
        source = self.new_source(self.short_lease)
        await source.open()
        assert count == len(await source.receive(count, 0))


@dataclass(frozen=True)
class Broken:
    """A source that breaks a rule, and the test of the kit that must fail on it.

    Attributes:
        source_type: The source.
        test: The test's name.
        arguments: What the test is parametrized with.
    """

    source_type: type[HealthySource]
    test: str
    arguments: tuple[str, ...]


#: Every broken source with every test that must catch it.
BROKEN: list[Broken] = []

SourceT = TypeVar("SourceT", bound=type[HealthySource])


def breaks(test: str, *arguments: str) -> Callable[[SourceT], SourceT]:
    """Say of a source that the kit's `test` must fail on it."""

    def enter(source_type: SourceT) -> SourceT:
        BROKEN.append(Broken(source_type, test, arguments))
        return source_type

    return enter
