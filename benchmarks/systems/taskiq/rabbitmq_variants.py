"""taskiq on RabbitMQ, by taskiq-aio-pika: quorum queues, one awaited ack for each task.

Its prefetch (`qos`) is 10 unless set, and the worker's own limit counts what runs and what waits to run.
"""

from __future__ import annotations

from benchmarks.harness.system import EVERY_WORKLOAD, Variant
from benchmarks.systems.taskiq.redis_variants import worker

__all__ = ["RABBITMQ_REQUIREMENTS", "RABBITMQ_VARIANTS"]

RABBITMQ_REQUIREMENTS = ("taskiq-aio-pika==0.6.1", "aio-pika==10.2.1")

RABBITMQ_VARIANTS = (
    Variant(
        key="taskiq-rabbitmq",
        broker="rabbitmq",
        guarantee="at least once, quorum queue, publisher confirms",
        settings="AioPikaBroker, uvloop, orjson, prefetch 200, no results",
        worker=worker,
        workloads=EVERY_WORKLOAD | {"cpu_neighbour"},
        absent={"enqueue_bulk": "no call for many"},
        tasks=10_000,
    ),
)
