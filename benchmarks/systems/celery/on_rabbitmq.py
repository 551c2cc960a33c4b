"""Celery's settings on RabbitMQ."""

from __future__ import annotations

from typing import Any

#: Quorum queues as the documentation sets them up: a topic exchange, and confirms, without which a send may be lost.
RABBITMQ_SETTINGS: dict[str, Any] = {
    "task_default_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "broker_transport_options": {"confirm_publish": True},
}
