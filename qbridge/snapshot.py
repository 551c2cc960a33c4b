"""WorkerSnapshot: how a worker is at one moment, as numbers and words that any thread, or another process, may read.

It holds no message, no id of one, no URL and no error text, so it may be shown to whoever may know that the worker is
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from qbridge.counts import QueueCounts
from qbridge.watchdog import LoopHealth

__all__ = ["LoopGroupSnapshot", "QueueSnapshot", "WorkerSnapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSnapshot:
    """One queue in the worker.

    Attributes:
        state: Where its source is in its life: `connecting`, `ready`, `degraded` or `closed`.
        held: Messages that are claimed and not settled.
        unsettled: Ends that the broker has not been told of.
        counts: What has happened, a copy.
    """

    state: str
    held: int = 0
    unsettled: int = 0
    counts: QueueCounts = field(default_factory=QueueCounts)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopGroupSnapshot:
    """One loop group in the worker.

    Attributes:
        capacity: Handlers that its loop threads may run at once.
        in_flight: Handlers that they run, and plain functions of threads that were given up.
        given_up: Loop threads that were given up and have not ended.
    """

    capacity: int
    in_flight: int = 0
    given_up: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSnapshot:
    """A worker at one moment. What counts began with 0 when its process started.

    Attributes:
        queues: Its queues by name.
        groups: Its loop groups by name.
        waiting: Messages that are claimed and wait for their turn.
        outcomes: How many tasks were settled, by action: `ack`, `retry`, `release` or `dead_letter`.
        loops: Which loops are blocked, and what has happened to them.
        is_draining: Whether it leaves.
    """

    queues: Mapping[str, QueueSnapshot]
    groups: Mapping[str, LoopGroupSnapshot]
    waiting: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    loops: LoopHealth = field(default_factory=LoopHealth)
    is_draining: bool = False

    def to_plain(self) -> dict[str, Any]:
        """Return it as what JSON can write."""
        plain: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return plain

    @classmethod
    def from_plain(cls, plain: object) -> WorkerSnapshot:
        """Return the snapshot that `to_plain` has written.

        Raises:
            ValueError: It is no snapshot.
        """
        return _adapter().validate_python(plain)


@cache
def _adapter() -> TypeAdapter[WorkerSnapshot]:
    return TypeAdapter(WorkerSnapshot)
