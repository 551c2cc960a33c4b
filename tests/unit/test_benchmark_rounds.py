"""How the benchmark notes runs: what each gave, why it failed, and that the others go on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.harness.plan import Plan
from benchmarks.harness.report import noted
from benchmarks.harness.rounds import run_rounds
from benchmarks.harness.run import Run, Work
from benchmarks.harness.system import Command, Setting, System, Variant
from benchmarks.harness.workloads import QUICK, Figure, Scale, Workload

#: A worker that runs two tasks, one of them twice, and then waits.
WORKER = (
    "import time; from benchmarks.harness.recorder import *; "
    "ran(0); time.sleep(0.05); ran(1); ran(1); print('idle', flush=True); time.sleep(60)"
)


def worker(setting: Setting) -> Command:
    """Return a command that runs tasks without any queue."""
    return Command((str(setting.python), "-c", WORKER))


def drained(run: Run, scale: Scale) -> Mapping[str, float]:
    """Wait for two tasks."""
    with run.worker() as workers:
        return run.drained(Work("noop", 2), workers)


def too_many(run: Run, scale: Scale) -> Mapping[str, float]:
    """Wait for a task that never runs."""
    with run.worker() as workers:
        run.wait_for(Work("noop", 2), workers)
        run.wait_for(Work("noop", 3), workers, longest=0.5)
    return {}


def impossible(run: Run, scale: Scale) -> Mapping[str, float]:
    """Fail in a way that nobody has thought of."""
    raise OSError("no space left")


def plan(*workloads: Workload, started: Callable[[Setting], Command] = worker) -> Plan:
    """Return a plan with one system that needs no broker."""
    names = frozenset(workload.name for workload in workloads)
    variant = Variant("made-up", "memory", "none", "", started, workloads=names, sends_itself=True)
    system = System("made-up", "qbridge", (), (variant,))
    return Plan(((system, variant),), tuple((workload, 1) for workload in workloads), (), 0, QUICK)


RATE = Figure("rate", "tasks/s", more_is_better=True)


def test_a_run_is_measured_by_what_its_worker_noted(tmp_path: Path) -> None:
    """The rate is from the first to the last end, a repetition is counted, and the file has it at once."""
    output = tmp_path / "raw.json"

    raw = run_rounds(plan(Workload("drain", "two tasks", (RATE,), drained)), command="bench", output=output)

    [run] = raw["runs"]
    assert 1 == run["figures"]["repeated"]
    assert 1 / run["figures"]["seconds"] == pytest.approx(run["figures"]["rate"])
    assert run["figures"]["seconds"] >= 0.05
    assert raw == json.loads(output.read_text("utf-8"))


def test_runs_that_fail_are_noted_and_the_others_go_on() -> None:
    """One that takes too long, with its last lines, and one that can't be made; the last one is measured."""
    workloads = (
        Workload("slow", "a task is missing", (RATE,), too_many),
        Workload("broken", "an error", (RATE,), impossible),
        Workload("drain", "two tasks", (RATE,), drained),
    )

    raw = run_rounds(plan(*workloads), command="bench")

    slow, broken, well = raw["runs"]
    assert ("2 of 3 noop tasks had run after 0.5 s", ["idle"]) == (slow["failure"], slow["log"])
    assert "OSError: no space left" == broken["failure"]
    assert "failure" not in well
    assert [1, 1, 0] == [result["failed"] for result in noted(raw)["results"]]


@pytest.mark.parametrize("before", ["", "from benchmarks.harness.recorder import *; ran(0); "], ids=["none", "one"])
def test_a_worker_that_ends_is_told_at_once(before: str) -> None:
    """Nobody waits for the tasks of a worker that ended before all had run; its exit code and last lines are noted."""

    def ends(setting: Setting) -> Command:
        code = f"{before}print('no such option', flush=True); raise SystemExit(64)"
        return Command((sys.executable, "-c", code))

    raw = run_rounds(plan(Workload("drain", "two tasks", (RATE,), drained), started=ends), command="bench")

    [run] = raw["runs"]
    assert ("a worker ended with exit code 64", ["no such option"]) == (run["failure"], run["log"])
