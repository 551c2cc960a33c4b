"""The benchmark's record: handlers in several processes write it, and the harness reads what ran."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness import recorder
from benchmarks.harness.recorder import Record

ROOT = Path(__file__).parents[2]
TASKS = 20


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """Give an empty record that this process's handlers write too."""
    path = tmp_path / "record"
    made = Record(path, tasks=TASKS)
    monkeypatch.setenv("BENCH_RECORD", str(path))
    monkeypatch.delenv("BENCH_RECORD_OWNER", raising=False)
    monkeypatch.setattr(recorder, "_record", None)
    yield made
    if recorder._record is not None:
        recorder._record.close()
    made.close()


def in_another_process(record: Record, code: str, **variables: str) -> None:
    """Run handlers' code in a process of its own."""
    subprocess.run(
        [sys.executable, "-c", f"from benchmarks.harness.recorder import *; {code}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        check=True,
        timeout=30,
    )


def test_tasks_that_ran_are_counted_once(record: Record) -> None:
    """A task that ran twice counts as one that ran, and as one repetition."""
    for number in (0, 3, 3, 19):
        recorder.ran(number)

    assert 3 == record.distinct(0, TASKS)
    assert 1 == record.distinct(1, 4)
    assert 0 == record.distinct(4, 19)
    assert 1 == record.repeated()


def test_nothing_is_in_a_fresh_record(record: Record) -> None:
    """Before anything ran there is no span, and nobody has written."""
    assert (0, 0) == record.span()
    assert 0 == record.distinct(0, TASKS)
    assert 0 == record.processes()


def test_the_span_is_that_of_all_processes(record: Record) -> None:
    """The first and the last moment may be noted by different processes."""
    recorder.ran(0)
    first, middle = record.span()

    in_another_process(record, "ran(1)")

    assert first == record.span()[0]
    assert middle < record.span()[1]
    assert 2 == record.processes()
    assert 2 == record.distinct(0, TASKS)


def test_a_start_opens_the_span(record: Record) -> None:
    """What a handler does between its start and its end is within the span."""
    recorder.started()
    first, _ = record.span()
    recorder.ran(0)

    assert first == record.span()[0]
    assert first < record.span()[1]


def test_attempts_are_counted_over_all_processes(record: Record) -> None:
    """A task that fails at first knows its second attempt in another process too."""
    assert 1 == recorder.attempt(5)
    in_another_process(record, "assert attempt(5) == 2")
    assert 3 == recorder.attempt(5)
    assert 1 == recorder.attempt(6)


def test_a_task_that_runs_without_end_does_no_harm(record: Record) -> None:
    """More runs than a byte can count don't fail the handler, nor touch the next task."""
    for _ in range(300):
        recorder.ran(4)
        recorder.attempt(4)

    assert [0, 255, 0] == record.runs[3:6].tolist()
    assert 255 == recorder.attempt(4)
    assert 254 == record.repeated()


def test_latencies_are_kept_by_task(record: Record) -> None:
    """The time since a send is noted under the task's number, and the task has run."""
    recorder.latency(7, 0)

    assert record.span()[0] == record.latencies[7]
    assert 0 == record.latencies[6]
    assert 1 == record.distinct(7, 8)


def test_children_of_one_parent_may_share_a_slot(record: Record) -> None:
    """A system that forks a process for each task doesn't run out of slots."""
    for number in range(3):
        in_another_process(record, f"ran({number})", BENCH_RECORD_OWNER="parent")

    assert 1 == record.processes()
    assert 3 == record.distinct(0, TASKS)


def test_a_forked_child_writes_a_slot_of_its_own(record: Record) -> None:
    """A child that inherited the record doesn't write to the slot of its parent."""
    code = (
        "import os; ran(0); child = os.fork(); ran(1); (os._exit(0) if not child else "
        "os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))"
    )

    in_another_process(record, code)

    assert 2 == record.processes()
    assert [1, 2] == record.runs[:2].tolist()


def test_too_many_processes_are_told(record: Record) -> None:
    """A record with no slot left says so, instead of writing over another one."""
    for owner in range(1, 65):
        record.take_slot(owner)

    with pytest.raises(RuntimeError, match="more than 64 processes"):
        record.take_slot(65)
    record.take_slot(64)
