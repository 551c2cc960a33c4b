"""The memory backend keeps the rules: in real time, and on a clock that the tests move."""

from qbridge.testing import SourceConformance
from qbridge_memory import ManualClock, MemoryBroker, MemoryOptions, MemorySource, backend


class TestMemory(SourceConformance):
    """The memory backend as a program has it."""

    capabilities = backend.capabilities
    short_lease = 0.3
    delay = 0.2

    def setup_method(self) -> None:
        """Give each test a queue of its own."""
        self.broker = MemoryBroker()

    def new_source(self, lease: float) -> MemorySource:
        """Make a source of that queue."""
        return MemorySource("q", MemoryOptions(lease=lease), broker=self.broker)


class TestMemoryOnAManualClock(SourceConformance):
    """The same with leases and delays that pass when the clock is moved."""

    capabilities = backend.capabilities

    def setup_method(self) -> None:
        """Give each test a queue and a clock of its own."""
        self.clock = ManualClock()
        self.broker = MemoryBroker(clock=self.clock)

    def new_source(self, lease: float) -> MemorySource:
        """Make a source of that queue."""
        return MemorySource("q", MemoryOptions(lease=lease), broker=self.broker)
