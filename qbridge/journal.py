"""What the log and the listeners are told about the end of a job."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from qbridge.execution import Job
from qbridge.source import Action, Settlement

if TYPE_CHECKING:
    from qbridge.events import TaskFinished, TaskOutcome

__all__ = ["ending", "finished_event", "identity", "log_failure", "outcome_of"]

log = logging.getLogger(__name__)

_OUTCOMES: dict[Action, TaskOutcome] = {
    Action.ACK: "done",
    Action.RETRY: "retried",
    Action.RELEASE: "released",
    Action.DEAD_LETTER: "dead_lettered",
}


def identity(job: Job) -> dict[str, Any]:
    """Return the log fields that name a job."""
    return {
        "queue": job.queue,
        "task": job.message.task,
        "message_id": job.message.id,
        "attempt": job.delivery.attempt,
    }


def outcome_of(settlement: Settlement | None) -> TaskOutcome:
    """Return the word for how a delivery ended; None stands for a lost lease."""
    return "lost" if settlement is None else _OUTCOMES[settlement.action]


def ending(job: Job) -> dict[str, Any]:
    """Return the log fields that tell how a job ended, where and in how many seconds."""
    return {
        "outcome": outcome_of(job.settlement),
        "loop_thread": job.thread.name,
        "waited": round(job.started_at - job.claimed_at, 6),
        "duration": round(job.ended_at - job.started_at, 6),
    }


def log_failure(job: Job, settlement: Settlement) -> None:
    """Log a failed attempt once: with its traceback where one exists, never with the arguments."""
    fields = identity(job) | {"error": settlement.error}
    if settlement.action is Action.DEAD_LETTER:
        log.error("task failed for good, message dead-lettered", extra=fields | {"reason": settlement.reason})
    else:
        log.warning("task failed, it is tried again", extra=fields | {"delay": round(settlement.delay, 3)})


def finished_event(job: Job) -> TaskFinished:
    """Return the event for a job that a loop thread has handed back."""
    from qbridge.events import TaskFinished

    settlement = job.settlement
    return TaskFinished(
        queue=job.queue,
        task=job.message.task,
        message_id=job.message.id,
        attempt=job.delivery.attempt,
        outcome=outcome_of(settlement),
        reason="" if settlement is None else settlement.reason,
        waited=job.started_at - job.claimed_at,
        duration=job.ended_at - job.started_at,
        loop_thread=job.thread.name,
        error=job.error,
    )
