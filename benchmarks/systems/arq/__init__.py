"""arq by its command `arq`: a sorted set of jobs that is polled, one event loop.

Each poll reads up to five times `max_jobs` job ids and starts them one after another, each with four round trips;
two more follow in the job's own coroutine. `poll_delay` is a millisecond instead of half a second: it is what a lone
job waits for, and what the worker waits for when `max_jobs` run already. An idle worker so asks Redis all the time.
`queue_read_limit` of 100 and 2,000 did not differ from the default of 500. Results are not kept, jobs are not logged.

It runs on uvloop, since it takes the loop of the policy.
"""

from __future__ import annotations

from benchmarks.harness.system import Command, Setting, System, Variant

__all__ = ["SYSTEM"]

APP = "benchmarks.systems.arq.app"


def _worker(setting: Setting) -> Command:
    return Command((setting.program("arq"), f"{APP}.WorkerSettings", "--custom-log-dict", f"{APP}.LOGGING"))


SYSTEM = System(
    name="arq",
    distribution="arq",
    requirements=("arq==0.28.0", "redis==5.3.1", "hiredis==3.5.0", "uvloop==0.23.0"),
    variants=(
        Variant(
            key="arq",
            broker="redis",
            guarantee="at least once: a dead worker's jobs come back after 310 s (job_timeout + 10); 5 starts at most",
            settings="uvloop, hiredis, max_jobs 100, polls each millisecond, no results, quiet",
            worker=_worker,
            absent={"enqueue_bulk": "no call for many"},
            tasks=6_000,
            forks=False,
        ),
    ),
)
