"""Admission: from a delivery to a job, or to the settlement of a message that can't become one."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from qbridge.codec import Codec
from qbridge.errors import UndecodableMessageError, UnsignedMessageError
from qbridge.event_hub import EventHub
from qbridge.execution import Job
from qbridge.intake import Intake
from qbridge.journal import outcome_of
from qbridge.message import TaskMessage
from qbridge.registry import HandlerRegistry
from qbridge.retry import RetryPolicy
from qbridge.source import MAX_ERROR_LENGTH, DeadLetterReason, Delivery, Settlement

__all__ = ["Admission", "Route"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How one queue's messages become jobs.

    Attributes:
        codec: Reads them.
        loops: The loop group that runs them.
        max_message_size: Bytes above which a message is dead-lettered unread.
        read_ahead: Messages claimed beyond what can start at once.
    """

    codec: Codec
    loops: str = "default"
    max_message_size: int = 2**20
    read_ahead: int = 0


class Admission:
    """Decides which deliveries become jobs. Belongs to the main thread's loop, and does no more there than it must.

    Args:
        registry: The handlers.
        retry: The policy of handlers that have none, and of messages whose handler isn't known.
        max_crashes: How often a message may come back because its worker died.
        events: Where refusals are told.
    """

    def __init__(self, registry: HandlerRegistry, *, retry: RetryPolicy, max_crashes: int, events: EventHub) -> None:
        self._registry = registry
        self._retry = retry
        self._max_crashes = max_crashes
        self._events = events

    def admit(self, intake: Intake, route: Route, delivery: Delivery, claimed_at: float) -> Job | None:
        """Return the job for a delivery, or None if its settlement was decided at once and given to the intake."""
        if delivery.crashes >= self._max_crashes:
            error = f"its worker died or lost its lease {delivery.crashes} times (max_crashes: {self._max_crashes})"
            self._dead_letter(intake, delivery, DeadLetterReason.CRASHED, error)
            return None
        if len(delivery.body) > route.max_message_size:
            error = f"message has {len(delivery.body)} bytes, over max_message_size: {route.max_message_size}"
            self._dead_letter(intake, delivery, DeadLetterReason.TOO_LARGE, error)
            return None
        try:
            message = route.codec.decode(delivery)
        except UnsignedMessageError as exc:
            self._dead_letter(intake, delivery, DeadLetterReason.UNSIGNED, str(exc))
            return None
        except UndecodableMessageError as exc:
            self._dead_letter(intake, delivery, DeadLetterReason.UNDECODABLE, str(exc)[:MAX_ERROR_LENGTH])
            return None
        handler = self._registry.find(message.task)
        if handler is None:
            self._refuse_unknown(intake, delivery, message)
            return None
        return Job(
            delivery,
            message,
            handler,
            queue=intake.queue,
            retry=handler.retry or self._retry,
            owner=intake,
            claimed_at=claimed_at,
        )

    def _refuse_unknown(self, intake: Intake, delivery: Delivery, message: TaskMessage) -> None:
        """Try again later, since a rolling deploy may bring the handler; then dead-letter it."""
        error = f"no handler is registered for task {message.task!r}"
        if not self._retry.allows_another(delivery.attempt):
            self._dead_letter(intake, delivery, DeadLetterReason.UNKNOWN_TASK, error, message)
            return
        delay = self._retry.delay_after(delivery.attempt)
        log.warning(
            "no handler for this task, it is tried again later",
            extra={"queue": intake.queue, "task": message.task, "message_id": message.id, "delay": round(delay, 3)},
        )
        self._settle_unread(intake, delivery.retry(delay, error), message)

    def _dead_letter(
        self, intake: Intake, delivery: Delivery, reason: str, error: str, message: TaskMessage | None = None
    ) -> None:
        log.error(
            "message dead-lettered",
            extra={"queue": intake.queue, "message_id": delivery.message_id, "reason": str(reason), "error": error},
        )
        self._settle_unread(intake, delivery.dead_letter(reason, error), message)

    def _settle_unread(self, intake: Intake, settlement: Settlement, message: TaskMessage | None) -> None:
        intake.settle(settlement)
        if self._events.active:
            from qbridge.events import TaskFinished

            self._events.emit(
                TaskFinished(
                    queue=intake.queue,
                    task=message.task if message else "",
                    message_id=message.id if message else settlement.delivery.message_id,
                    attempt=settlement.delivery.attempt,
                    outcome=outcome_of(settlement),
                    reason=settlement.reason,
                    error=settlement.error,
                )
            )
