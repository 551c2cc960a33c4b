"""MemoryBroker: queues by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qbridge_memory.clock import ManualClock
from qbridge_memory.memory_queue import MemoryQueue

__all__ = ["MemoryBroker"]


class MemoryBroker:
    """Named queues in memory. They are kept, with their messages, as long as the broker is.

    Args:
        clock: Tells seconds that never go back; leases, delays and ages are measured with it. A `ManualClock` also
            lets waiting receives look again when it is moved.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._queues: dict[str, MemoryQueue] = {}
        if isinstance(clock, ManualClock):
            clock.listeners.append(self._let_all_look_again)

    def queue(self, name: str) -> MemoryQueue:
        """Return the queue of that name; the same object for the same name."""
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                queue = self._queues[name] = MemoryQueue(name, self._clock)
            return queue

    def _let_all_look_again(self) -> None:
        with self._lock:
            queues = list(self._queues.values())
        for queue in queues:
            queue.let_look_again()
