"""streaq by its command `streaq run`: a Redis stream and a key for each task, one event loop.

Two round trips per task: one reads it, counts the attempt and renews the claim, one acknowledges, deletes and
publishes. uvloop by its own option; `silent` spares the log lines of each task, `ttl=0` keeps no result. The prefetch
is the default, as many as run at once: the worker then reads up to 200 entries at a time.

A delayed retry waits in a sorted set that is looked at each half second, also with a delay of zero.
"""

from __future__ import annotations

from benchmarks.harness.system import EVERY_WORKLOAD, Command, Setting, System, Variant

__all__ = ["SYSTEM"]


def _worker(setting: Setting) -> Command:
    argv = (setting.program("streaq"), "run", "benchmarks.systems.streaq.app:worker")
    return Command((*argv, "--workers", str(setting.processes)))


SYSTEM = System(
    name="streaq",
    distribution="streaq",
    requirements=("streaq==7.2.0", "coredis==6.9.0", "anyio==4.16.0", "uvloop==0.23.0"),
    variants=(
        Variant(
            key="streaq",
            broker="redis",
            guarantee="at least once: a dead worker's tasks come back after 60 s; 3 starts at most",
            settings="uvloop, concurrency 100, default prefetch, silent, no results",
            worker=_worker,
            workloads=EVERY_WORKLOAD | {"enqueue_bulk"},
            tasks=4_000,
        ),
    ),
)
