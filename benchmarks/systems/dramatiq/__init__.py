"""dramatiq by its command `dramatiq`: threads that take tasks of Redis lists, through Lua scripts.

Threads: the default of 8, and 100 only for tasks that wait, of which 100 at once are asked for. Of 2, 4, 8 and 16 none
was faster than 8 by more than the measurement's noise.

Prefetch: by default two messages per thread. A consumer whose quota is full sleeps for 5 ms and longer before it looks
again, so 8 threads ended at 2,100 no-ops a second, and at 4,100 with a prefetch of 1,000 (November 2026).

Timeout: an idle consumer asks Redis again after a pause that grows to `dramatiq_worker_timeout`, 1 s by default. Where
latency is measured it is 1 ms; elsewhere the default, since with a short one it fetches few messages at a time.

What a dead worker held comes back after 60 s with one command in a thousand, by chance: with an idle second worker
that took 375 s (November 2026).

The middleware is the default one.
"""

from __future__ import annotations

from benchmarks.harness.system import Command, Setting, System, Variant
from benchmarks.systems.dramatiq.rabbitmq_variant import RABBITMQ_REQUIREMENTS, rabbitmq_variant

__all__ = ["SYSTEM", "command"]

THREADS = 8


def command(setting: Setting, **environment: str) -> Command:
    """Return the command that runs workers, with these settings that dramatiq reads from the environment."""
    threads = setting.concurrency if setting.workload == "io" else THREADS
    argv = (
        *(setting.program("dramatiq"), "benchmarks.systems.dramatiq.app", "--skip-logging"),
        *("--processes", str(setting.processes), "--threads", str(threads)),
    )
    return Command(argv, environment)


def _redis_worker(setting: Setting) -> Command:
    timeout = "1" if setting.workload == "latency" else "1000"
    return command(setting, dramatiq_queue_prefetch="1000", dramatiq_worker_timeout=timeout)


SYSTEM = System(
    name="dramatiq",
    distribution="dramatiq",
    requirements=("dramatiq[redis]==2.2.1", "redis==8.1.0", "hiredis==3.5.0", *RABBITMQ_REQUIREMENTS),
    variants=(
        Variant(
            key="dramatiq",
            broker="redis",
            guarantee="at least once: a dead worker's tasks return after a minute, or several if idle",
            settings="8 threads (100 where tasks wait), prefetch 1,000, hiredis; for latency it polls each millisecond",
            worker=_redis_worker,
            absent={"enqueue_bulk": "no call for many: a group enqueues one by one"},
            tasks=10_000,
        ),
        rabbitmq_variant(command),
    ),
)
