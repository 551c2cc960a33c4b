"""huey by its command `huey_consumer`: threads, on SQLite and on Redis lists.

On SQLite a task costs one durable write, the claim that deletes its row, beside two looks for a revocation. With 1 to
8 threads the drains on either broker are within each other's noise (November 2026, CPython 3.11). The file is polled:
each 10 ms, where the default waits up to 10 s.
"""

from __future__ import annotations

from benchmarks.harness.system import Command, Setting, System, Variant

__all__ = ["SYSTEM"]

THREADS = 4

_ABSENT = {"enqueue_bulk": "no call for many: a map enqueues one by one"}


def _worker(setting: Setting) -> Command:
    threads = setting.concurrency if setting.workload == "io" else THREADS
    return Command(
        (
            *(setting.program("huey_consumer"), "benchmarks.systems.huey.app.huey", "--quiet"),
            *("--worker-type", "thread", "--workers", str(threads), "--delay", "0.01", "--max-delay", "0.01"),
            "--no-periodic",
        )
    )


SYSTEM = System(
    name="huey",
    distribution="huey",
    requirements=("huey==3.5.4", "redis==8.1.0", "hiredis==3.5.0"),
    variants=(
        Variant(
            key="huey-sqlite",
            broker="sqlite",
            guarantee="at most once (deleted before it runs), synchronous=FULL",
            settings="threads, polled each 10 ms, no results",
            worker=_worker,
            absent=_ABSENT,
            tasks=2_000,
            forks=False,
        ),
        Variant(
            key="huey",
            broker="redis",
            guarantee="at most once (popped before it runs)",
            settings="threads, blocking pops, no results",
            worker=_worker,
            absent=_ABSENT,
            tasks=5_000,
            forks=False,
        ),
    ),
)
