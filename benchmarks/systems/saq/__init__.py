"""SAQ by its command `saq`: Redis lists and a key for each job, one event loop.

A job takes six round trips, and its dequeue blocks in one of 100 connections. `ttl=-1` keeps neither job nor result;
without `--verbose` it logs warnings. `retries=3` instead of 1, since with 1 a job whose worker died is given up.

Its guarantee has a hole. A worker sweeps when it starts and then each minute, and takes any job for stuck that was
moved to the active list and is not yet marked active: with a backlog it meets its own. It aborts that job, which by
then may run, or wait in the queue for its retry and is then given up. In November 2026 most drains showed the log line
"Upkeep task failed unexpectedly" that follows; some ran two jobs twice, and in one of 1,200 jobs that fail at first,
one had not run 40 s after the others. Jobs of a dead worker are swept one after another, with five seconds for each:
200 s after a worker with some 80 jobs was killed, 55 had not run again.

It runs on uvloop, since it takes the loop of the policy.
"""

from __future__ import annotations

from benchmarks.harness.system import Command, Setting, System, Variant

__all__ = ["SYSTEM"]


def _worker(setting: Setting) -> Command:
    argv = (setting.program("saq"), "benchmarks.systems.saq.app.settings", "--workers", str(setting.processes))
    return Command(argv)


SYSTEM = System(
    name="saq",
    distribution="saq",
    requirements=(
        "saq[redis,hiredis]==0.26.4",
        "redis==7.4.1",
        "hiredis==3.5.0",
        "uvloop==0.23.0",
        "typing-extensions==4.16.0",  # imported on CPython 3.11, and not among SAQ's dependencies there
    ),
    variants=(
        Variant(
            key="saq",
            broker="redis",
            guarantee="at least once: a dead worker's jobs return one each 5 s; but a sweep may drop a live job",
            settings="uvloop, hiredis, concurrency 100, retries 3, no results",
            worker=_worker,
            absent={"enqueue_bulk": "no call for many: a batch is a scope in which an error aborts jobs"},
            tasks=6_000,
        ),
    ),
)
