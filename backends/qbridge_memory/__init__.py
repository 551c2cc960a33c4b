"""The memory backend: queues in this process, and the reference implementation of the contract.

Sources that are made with the same options object share their queue, whatever thread or event loop they live on: the
producer's source and the worker's of one `QBridge`, say. The queue lives as long as these options, and its messages
are gone with it. For what must outlive the program there is the sqlite backend.

A `MemoryBroker` given to `MemorySource` or `make_backend` is shared by whoever has it; with a `ManualClock`, leases and
delays run on a test's time.
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
