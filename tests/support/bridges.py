"""What the tests of QBridge share: a queue in memory, and what is left in one."""

from __future__ import annotations

from typing import Any

from qbridge import QBridge

__all__ = ["MEMORY", "left_in"]

#: The keys of a queue in this process.
MEMORY: dict[str, Any] = {"backend": "memory"}


async def left_in(bridge: QBridge, queue: str | None = None) -> tuple[int, int, int, int]:
    """Return how many messages of a queue are ready, delayed, in flight and dead."""
    async with bridge.source(queue) as source:
        stats = await source.stats()
    return stats.ready, stats.delayed, stats.in_flight, stats.dead
