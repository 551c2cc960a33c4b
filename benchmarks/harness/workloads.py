"""The workloads: what is done with a system, and the figures that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.harness.processes import Running
from benchmarks.harness.run import Run, Work
from benchmarks.harness.statistics import percentile
from benchmarks.harness.system import Variant

__all__ = ["QUICK", "USUAL", "WORKLOADS", "Figure", "Scale", "Workload", "room_for"]

KIB = 1024


@dataclass(frozen=True)
class Scale:
    """How much is done.

    Args:
        tasks: What the tasks of a drain are multiplied with.
        sends: The most tasks that are sent by what measures sends.
        stamps: Single tasks whose latency is measured.
        waits: Tasks that wait for 50 ms.
        crunches: Tasks that compute for a second beside others.
    """

    tasks: float = 1.0
    sends: int = 51_001
    stamps: int = 240
    waits: int = 2_000
    crunches: int = 30


#: Enough for medians, within ten minutes for all.
USUAL = Scale(stamps=200)

#: So little that it only shows that everything works: what is prefetched before the first task counts in full.
QUICK = Scale(tasks=0.1, sends=3_001, stamps=40, waits=300, crunches=3)


@dataclass(frozen=True)
class Figure:
    """One number that a workload gives.

    Args:
        key: Its name in the results.
        heading: What a table calls it.
        more_is_better: Whether the larger one is better.
        digits: How many digits after the point it is shown with.
    """

    key: str
    heading: str
    more_is_better: bool
    digits: int = 0


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Args:
        name: Its name.
        title: For a reader.
        figures: What it gives; the first one is what systems are compared by.
        measure: Does it; returns the figures, and `repeated` where tasks run.
        processes: Worker processes.
    """

    name: str
    title: str
    figures: tuple[Figure, ...]
    measure: Callable[[Run, Scale], Mapping[str, float]]
    processes: int = 1


RATE = Figure("rate", "tasks/s", more_is_better=True)
PROCESSOR = Figure("processor_us", "worker's processor time per task, µs", more_is_better=False, digits=1)
SENDS = Figure("rate", "sends/s", more_is_better=True)
MIDDLE = Figure("p50_ms", "p50, ms", more_is_better=False, digits=2)
HIGH = Figure("p99_ms", "p99, ms", more_is_better=False, digits=2)


def drain_count(run: Run, scale: Scale) -> int:
    """Return how many no-ops a drain has."""
    return max(100, round(run.variant.tasks * scale.tasks))


def room_for(variant: Variant, scale: Scale) -> int:
    """Return how many tasks of one run are recorded at most."""
    return max(variant.tasks, 100, scale.waits, 1 + 2 * scale.stamps + scale.crunches)


def drain(run: Run, scale: Scale) -> Mapping[str, float]:
    """Queue no-ops, then start the worker."""
    return _drain(run, Work("noop", drain_count(run, scale)))


def payload(size: int, most: int) -> Callable[[Run, Scale], Mapping[str, float]]:
    """Return a drain of tasks with a text of so many characters."""

    def measure(run: Run, scale: Scale) -> Mapping[str, float]:
        count = max(20, min(round(most * scale.tasks), drain_count(run, scale)))
        return _drain(run, Work("payload", count, size=size))

    return measure


def retries(run: Run, scale: Scale) -> Mapping[str, float]:
    """Queue tasks of which one in ten fails at first; it counts when it has run to its end."""
    return _drain(run, Work("flaky", min(10_000, drain_count(run, scale))))


def io(run: Run, scale: Scale) -> Mapping[str, float]:
    """Queue tasks that wait for 50 ms each."""
    return _drain(run, Work("io", scale.waits))


def enqueue(mode: str) -> Callable[[Run, Scale], Mapping[str, float]]:
    """Return what measures sends, without a worker."""

    def measure(run: Run, scale: Scale) -> Mapping[str, float]:
        found = run.send(mode, Work("noop", scale.sends))
        return {"rate": found["timed"] / found["seconds"]}

    return measure


def latency(run: Run, scale: Scale) -> Mapping[str, float]:
    """Send single tasks to an idle worker."""
    with run.worker() as workers:
        first = _warm_up(run, workers)
        return _latencies(run, workers, Work("stamp", scale.stamps, first=first))


def cpu_neighbour(run: Run, scale: Scale) -> Mapping[str, float]:
    """Send single tasks to a worker that is idle, and again while other tasks compute."""
    with run.worker() as workers:
        first = _warm_up(run, workers)
        before = _latencies(run, workers, Work("stamp", scale.stamps, first=first))
        crunches = Work("crunch", scale.crunches, first=first + scale.stamps, seconds=1.0)
        run.send("prefill", crunches)
        time.sleep(0.5)
        stamps = Work("stamp", scale.stamps, first=crunches.first + crunches.count)
        beside = _latencies(run, workers, stamps, longest=run.longest + 3 * scale.crunches)
    return {**{f"{key}_alone": value for key, value in before.items()}, **beside}


def rss(run: Run, scale: Scale) -> Mapping[str, float]:
    """Weigh a worker that has run one task and then nothing for three seconds."""
    with run.worker(Work("noop", 1)) as workers:
        _warm_up(run, workers)
        time.sleep(2)
        return {"rss_mib": sum(worker.memory() for worker in workers)}


def cold_start(run: Run, scale: Scale) -> Mapping[str, float]:
    """Start a worker while a task is queued."""
    work = Work("noop", 1)
    run.prefill(work)
    began = time.monotonic_ns()
    with run.worker(work) as workers:
        run.wait_for(work, workers)
        first, _ = run.record.span()
        return {"seconds": (first - began) / 1e9}


def _drain(run: Run, work: Work) -> Mapping[str, float]:
    run.prefill(work)
    with run.worker(work) as workers:
        return run.drained(work, workers)


def _warm_up(run: Run, workers: list[Running]) -> int:
    """Let the worker run a task and be idle for a second; return the number of the next task."""
    work = Work("noop", 1)
    run.prefill(work)
    run.wait_for(work, workers)
    time.sleep(1)
    return 1


def _latencies(run: Run, workers: list[Running], work: Work, *, longest: float | None = None) -> dict[str, float]:
    with run.sending("latency", work):
        run.wait_for(work, workers, longest=longest)
    # The first one opened the sender's connection.
    noted = run.record.latencies[work.first + 1 : work.first + work.count].tolist()
    return {"p50_ms": percentile(noted, 50) / 1e6, "p99_ms": percentile(noted, 99) / 1e6, "worst_ms": max(noted) / 1e6}


_ALL = (
    Workload("drain", "No-ops that were queued before", (RATE, PROCESSOR), drain),
    Workload("drain_2", "No-ops that were queued before, two worker processes", (RATE,), drain, processes=2),
    Workload("enqueue_one", "Sends, each awaited before the next", (SENDS,), enqueue("one")),
    Workload("enqueue_concurrent", "Sends, 1,000 at once", (SENDS,), enqueue("concurrent")),
    Workload("enqueue_bulk", "Sends with the call for many, 1,000 a call", (SENDS,), enqueue("bulk")),
    Workload("latency", "From a send to the handler's start, idle worker", (MIDDLE, HIGH), latency),
    Workload(
        "io",
        "Tasks that wait for 50 ms, 100 at once",
        (Figure("seconds", "seconds", more_is_better=False, digits=2),),
        io,
    ),
    Workload("payload_100B", "Tasks with a text of 100 B", (RATE,), payload(100, 50_000)),
    Workload("payload_10KiB", "Tasks with a text of 10 KiB", (RATE,), payload(10 * KIB, 10_000)),
    Workload("payload_1MiB", "Tasks with a text of 1 MiB", (RATE,), payload(KIB * KIB, 400)),
    Workload("retries", "Tasks of which one in ten fails at first", (RATE,), retries),
    Workload(
        "cpu_neighbour",
        "From a send to the handler's start while other tasks compute",
        (
            HIGH,
            MIDDLE,
            Figure("p99_ms_alone", "p99 without, ms", more_is_better=False, digits=2),
            Figure("p50_ms_alone", "p50 without, ms", more_is_better=False, digits=2),
        ),
        cpu_neighbour,
    ),
    Workload("rss", "Resident memory of an idle worker", (Figure("rss_mib", "MiB", more_is_better=False),), rss),
    Workload(
        "cold_start",
        "From the worker's start to its first task",
        (Figure("seconds", "seconds", more_is_better=False, digits=2),),
        cold_start,
    ),
)

#: The workloads by their names, in the order of the report.
WORKLOADS = {workload.name: workload for workload in _ALL}
