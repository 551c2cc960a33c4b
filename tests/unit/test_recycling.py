"""When a worker process is worn out."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from qbridge.config import RecycleConfig
from qbridge.recycling import Wear, resident_memory

MIB = 2**20


def test_without_limits_nothing_wears_out() -> None:
    """A process without limits is never recycled."""
    assert Wear(RecycleConfig(), lambda: 10**9).reason() is None


@pytest.mark.parametrize(("tasks", "reason"), [(9, None), (10, "max_tasks: 10 of 10"), (11, "max_tasks: 11 of 10")])
def test_tasks_wear_out(tasks: int, reason: str | None) -> None:
    """The limit is reached with so many tasks, and told with their number."""
    assert reason == Wear(RecycleConfig(max_tasks=10), lambda: tasks).reason()


def test_memory_wears_out() -> None:
    """The limit is passed when the process holds more than that."""
    memory = resident_memory()
    roomy = Wear(RecycleConfig(max_rss=memory + 64 * MIB), int)
    assert roomy.reason() is None

    leaked = b"x" * (80 * MIB)

    reason = roomy.reason()
    assert reason is not None
    assert reason.startswith("max_rss: ")
    assert 80 * MIB == len(leaked)


def test_memory_is_what_the_process_holds() -> None:
    """The figure is that of the system's own tools."""
    assert resident_memory() == pytest.approx(psutil.Process().memory_info().rss, abs=4 * MIB)


def test_without_proc_memory_is_the_most_there_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the system doesn't tell, the most that the process ever held stands for it."""
    before = resident_memory()
    monkeypatch.setattr("qbridge.recycling._STATM", tmp_path / "statm")

    assert resident_memory() >= before - 4 * MIB
    assert resident_memory() < before + 4096 * MIB
