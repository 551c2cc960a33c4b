"""Condition: what is known of a service's workers, and what it says about whether it lives and whether it works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qbridge.snapshot import WorkerSnapshot

__all__ = ["FROZEN", "LATE", "Condition", "WorkerView", "why_not_live", "why_not_ready"]

#: Seconds after which a main loop that has not turned is taken for frozen: only another process helps.
FROZEN = 30.0

#: Seconds after which what was said last holds no longer.
LATE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker, as it is seen.

    Attributes:
        number: Which of the service's workers it is, from 1.
        snapshot: What it said last; None if it has said nothing, as it starts or is not there.
        seen_at: When it said so, on the monotonic clock.
        deaths: How often a process in this place has died.
    """

    number: int
    snapshot: WorkerSnapshot | None = None
    seen_at: float = 0.0
    deaths: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """All workers of a service at one moment.

    Attributes:
        at: When the main loop of this process turned last, on the monotonic clock.
        workers: The workers.
        is_draining: Whether the service leaves.
    """

    at: float
    workers: tuple[WorkerView, ...] = ()
    is_draining: bool = False


def why_not_live(condition: Condition, now: float) -> list[str]:
    """Return why the process should be ended and started again; [] if it lives, whatever its brokers do."""
    silent = now - condition.at
    return [f"the main loop has not turned for {silent:.1f} s"] if silent > FROZEN else []


def why_not_ready(condition: Condition, now: float) -> list[str]:
    """Return why not all workers take tasks from all their queues, a line for each reason; [] if they do.

    Names queues and loop threads, and shows no address and no text of an error.
    """
    silent = now - condition.at
    if silent > LATE:
        return [f"the main loop has not turned for {silent:.1f} s"]
    reasons = ["draining"] if condition.is_draining else []
    for view in condition.workers:
        which = f"worker {view.number}: " if len(condition.workers) > 1 else ""
        reasons += [which + reason for reason in _reasons(view, now)]
    if not condition.workers:
        reasons.append("not started")
    return reasons


def _reasons(view: WorkerView, now: float) -> Iterator[str]:
    snapshot = view.snapshot
    if snapshot is None:
        yield "has told nothing yet"
        return
    silent = now - view.seen_at
    if silent > LATE:
        yield f"silent for {silent:.1f} s"
        return
    if snapshot.is_draining:
        yield "draining"
    for name, queue in snapshot.queues.items():
        if queue.state != "ready":
            yield f"queue {name} is {queue.state}"
    for blocked in snapshot.loops.blocked:
        yield f"loop {blocked.loop_thread} is blocked for {blocked.seconds:.1f} s"
    if snapshot.loops.is_exhausted:
        yield "too many loop threads are blocked, none takes over"
