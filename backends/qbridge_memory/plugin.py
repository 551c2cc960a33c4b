"""What the entry point names, and how to make another for a broker of one's own."""

from __future__ import annotations

from qbridge import Backend
from qbridge_memory.broker import MemoryBroker
from qbridge_memory.source import CAPABILITIES, MemoryOptions, MemorySource

__all__ = ["backend", "make_backend"]


def make_backend(broker: MemoryBroker | None = None) -> Backend[MemoryOptions]:
    """Return a memory backend.

    Args:
        broker: Where its queues live, to be shared by several programs of one process. None gives each options
            object, and so each configuration, queues of its own.
    """

    def create(name: str, options: MemoryOptions) -> MemorySource:
        return MemorySource(name, options, broker=broker or options.broker)

    return Backend(
        name="memory",
        summary="queues in this process; gone when it ends",
        options=MemoryOptions,
        capabilities=CAPABILITIES,
        create=create,
        needs={},
        example={},
    )


#: Each configuration has queues of its own: what one program or test leaves in a queue, no other finds there.
backend = make_backend()
