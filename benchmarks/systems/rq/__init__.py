"""RQ by its command `rq worker`: the default, which forks a process for each task, and its SimpleWorker, which doesn't.

The worker's configuration module is the one with the handlers, so that a forked process finds them imported.
"""

from __future__ import annotations

from benchmarks.harness.system import EVERY_WORKLOAD, Command, Setting, System, Variant

__all__ = ["SYSTEM"]

_WORKLOADS = (EVERY_WORKLOAD | {"enqueue_bulk"}) - {"io"}
_ABSENT = {"io": "runs one task at a time in a process (2,000 waits of 50 ms take it 100 s)"}
_GUARANTEE = "a task whose worker died is failed, or retried if it was sent with Retry"


def _worker(setting: Setting, *options: str) -> Command:
    return Command(
        (setting.program("rq"), "worker", "--config", "benchmarks.systems.rq.app", "--quiet", *options),
        {"BENCH_RECORD_OWNER": "" if options else "parent"},
    )


def _simple_worker(setting: Setting) -> Command:
    return _worker(setting, "--worker-class", "rq.worker.SimpleWorker")


SYSTEM = System(
    name="rq",
    distribution="rq",
    requirements=("rq==3.0.0", "redis==8.1.0", "hiredis==3.5.0"),
    variants=(
        Variant(
            key="rq",
            broker="redis",
            guarantee=_GUARANTEE,
            settings="a fork per task, handlers imported before, results not kept",
            worker=_worker,
            workloads=_WORKLOADS,
            absent=_ABSENT,
            tasks=500,
            concurrency=1,
            forks=False,
        ),
        Variant(
            key="rq-simple",
            broker="redis",
            guarantee=_GUARANTEE,
            settings="SimpleWorker (no fork), results not kept",
            worker=_simple_worker,
            workloads=_WORKLOADS,
            absent=_ABSENT,
            tasks=2_000,
            concurrency=1,
            forks=False,
        ),
    ),
)
