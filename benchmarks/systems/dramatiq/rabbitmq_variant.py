"""dramatiq on RabbitMQ, by pika's BlockingConnection: it declares classic queues and has no setting for quorum queues.

An ack is one frame, sent from the consumer's thread. Delayed messages, and so retries, are held in the worker's memory
and looked after when a message comes or after `dramatiq_worker_timeout`, a second unless set.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.system import Command, Setting, Variant

__all__ = ["RABBITMQ_REQUIREMENTS", "rabbitmq_variant"]

RABBITMQ_REQUIREMENTS = ("pika==1.4.4",)


def rabbitmq_variant(command: Callable[..., Command]) -> Variant:
    """Return the variant, given what makes the worker's command from a setting and the environment."""

    def worker(setting: Setting) -> Command:
        timeout = "10" if setting.workload == "retries" else "1000"
        return command(setting, dramatiq_queue_prefetch="200", dramatiq_worker_timeout=timeout)

    return Variant(
        key="dramatiq-rabbitmq",
        broker="rabbitmq",
        guarantee="at least once, classic durable queue (has no quorum queues), publisher confirms",
        settings="8 threads (100 for io), prefetch 200, confirm_delivery, retries after 1 ms",
        worker=worker,
        absent={"enqueue_bulk": "no call for many: a group enqueues one by one"},
        tasks=10_000,
    )
