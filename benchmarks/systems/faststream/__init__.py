"""FastStream by its command `faststream run`: on RabbitMQ, on Redis streams and on Redis lists.

On RabbitMQ what is prefetched runs at once, so the prefetch is the concurrency. On Redis `max_workers` is, and a stream
is read 100 entries at a time. Confirms are on by default; messages are persistent only where a send says so, and ours
do. Batch subscribers, whose handler gets a list of messages that are acked or lost together, are no tasks and are left
out.
"""

from __future__ import annotations

from benchmarks.harness.system import EVERY_WORKLOAD, Command, Setting, System, Variant

__all__ = ["SYSTEM"]

_ON_REDIS = (EVERY_WORKLOAD | {"enqueue_bulk"}) - {"retries"}


def _worker(setting: Setting) -> Command:
    argv = (setting.program("faststream"), "run", "benchmarks.systems.faststream.app:app", "--log-level", "warning")
    if setting.processes > 1:  # a single one runs in the command's own process
        argv += ("--workers", str(setting.processes))
    return Command(argv)


SYSTEM = System(
    name="faststream",
    distribution="faststream",
    requirements=(
        "faststream[rabbit,redis,cli]==0.7.8",
        "aio-pika==10.2.1",
        "redis==8.1.0",
        "hiredis==3.5.0",
        "uvloop==0.23.0",
    ),
    variants=(
        Variant(
            key="faststream-rabbitmq",
            broker="rabbitmq",
            guarantee="at least once, quorum queue, confirms; failed messages are requeued at once, endlessly",
            settings="quorum queues, aio-pika, uvloop, prefetch 100, persistent messages, AckPolicy.NACK_ON_ERROR",
            worker=_worker,
            absent={"enqueue_bulk": "no call for many on RabbitMQ"},
            tasks=10_000,
        ),
        Variant(
            key="faststream-stream",
            broker="redis",
            guarantee="acked after it ran, but nothing claims what a dead worker held; entries are never deleted",
            settings="streams with a group, uvloop, hiredis, max_workers 100, reads of 100, bulk by a pipeline",
            worker=_worker,
            workloads=_ON_REDIS,
            absent={"retries": "has no second attempt (a failed message stays pending)"},
            tasks=8_000,
        ),
        Variant(
            key="faststream-list",
            broker="redis",
            guarantee="at most once (popped before it runs)",
            settings="lists, uvloop, hiredis, max_workers 100, bulk by publish_batch",
            worker=_worker,
            workloads=_ON_REDIS,
            absent={"retries": "has no second attempt (a failed message is gone)"},
            tasks=8_000,
        ),
    ),
)
