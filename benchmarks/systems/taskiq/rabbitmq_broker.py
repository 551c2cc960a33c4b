"""taskiq's RabbitMQ broker."""

from __future__ import annotations

import os

from taskiq_aio_pika import AioPikaBroker, Queue, QueueType


def new_rabbitmq_broker(url: str) -> AioPikaBroker:
    """Return a broker on the virtual host at this URL."""
    # What runs, and as much again that waits in the worker: it is all that RabbitMQ sends before an ack.
    return AioPikaBroker(
        url,
        qos=2 * int(os.environ["BENCH_CONCURRENCY"]),
        task_queues=[Queue(name="bench", type=QueueType.QUORUM)],
    )
