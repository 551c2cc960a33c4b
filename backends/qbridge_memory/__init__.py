"""The memory backend: queues in this process, and the reference implementation of the contract.

Several sources that name the same queue share it, whatever thread or event loop they live on: a producer's source and
a worker's, say. A queue lives as long as a source that names it; messages still in it then are gone, as they are when
the process ends. For what must outlive the process there is the sqlite backend.

Tests that want a queue of their own make a `MemoryBroker` and give it to `MemorySource` or `make_backend`; with a
`ManualClock`, leases and delays run on the test's time.
"""

from qbridge_memory.broker import MemoryBroker
from qbridge_memory.clock import ManualClock
from qbridge_memory.memory_queue import MemoryQueue
from qbridge_memory.plugin import backend, make_backend
from qbridge_memory.source import MemoryOptions, MemorySource

__all__ = [
    "ManualClock",
    "MemoryBroker",
    "MemoryOptions",
    "MemoryQueue",
    "MemorySource",
    "backend",
    "make_backend",
]
