"""What the entry point names, and how to make another for a broker of one's own."""

from __future__ import annotations

from qbridge import Backend
from qbridge_memory.broker import MemoryBroker
from qbridge_memory.source import CAPABILITIES, MemoryOptions, MemorySource

__all__ = ["backend", "make_backend"]


def make_backend(broker: MemoryBroker) -> Backend[MemoryOptions]:
    """Return a memory backend whose queues live in `broker`."""

    def create(name: str, options: MemoryOptions) -> MemorySource:
        return MemorySource(name, options, broker=broker)

    return Backend(
        name="memory",
        summary="queues in this process; gone when it ends",
        options=MemoryOptions,
        capabilities=CAPABILITIES,
        create=create,
        needs={},
        example={},
    )


#: The queues of this process: two sources of one name are one queue. It refers to them weakly, so what one program or
#: test leaves in a queue is gone with the last source that named it.
backend = make_backend(MemoryBroker(keep_unused=False))
