"""taskiq on Redis: lists, which lose what a worker held when it dies, and streams."""

from __future__ import annotations

from benchmarks.harness.system import EVERY_WORKLOAD, Command, Setting, Variant

__all__ = ["REDIS_REQUIREMENTS", "REDIS_VARIANTS", "worker"]

REDIS_REQUIREMENTS = ("taskiq-redis==1.2.4", "redis==8.1.0", "hiredis==3.5.0")


def worker(setting: Setting) -> Command:
    """Return its own command; what it prefetches beyond what runs is as much again."""
    return Command(
        (
            *(setting.program("taskiq"), "worker", "benchmarks.systems.taskiq.app:broker"),
            *("--workers", str(setting.processes), "--max-async-tasks", str(setting.concurrency)),
            *("--max-prefetch", str(setting.concurrency), "--log-level", "WARNING"),
        )
    )


REDIS_VARIANTS = (
    Variant(
        key="taskiq-stream",
        broker="redis",
        guarantee="at least once (10 min after a crash); entries are never deleted from the stream",
        settings="RedisStreamBroker, uvloop, hiredis, orjson, batches of 100, prefetch 100, no results",
        worker=worker,
        workloads=EVERY_WORKLOAD | {"cpu_neighbour"},
        tasks=10_000,
    ),
    Variant(
        key="taskiq-list",
        broker="redis",
        guarantee="at most once (popped before it runs)",
        settings="ListQueueBroker, uvloop, hiredis, orjson, prefetch 100, no results",
        worker=worker,
        tasks=10_000,
    ),
)
