"""The benchmark's processes: they end with it, and one that fails is told of with its last lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.harness.processes import DidNotFinishError, Running, finish

ROOT = Path(__file__).parents[2]

#: A process that starts a child, prints both numbers, and ignores SIGTERM.
STUBBORN = (
    "import os, signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "child = subprocess.Popen(['sleep', '60']); print(os.getpid(), child.pid, flush=True); time.sleep(60)"
)


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_printed(log: Path) -> list[int]:
    """Return the process numbers that were printed into a file."""
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline, "nothing was printed"
        time.sleep(0.01)
    return [int(word) for word in log.read_text().split()]


def wait_until_dead(pids: list[int]) -> None:
    """Return when none of these processes exists any more."""
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.01)


def test_a_process_that_ignores_being_asked_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM first; then nothing is left of what was started."""
    monkeypatch.setattr("benchmarks.harness.processes.PATIENCE", 0.2)
    log = tmp_path / "log"

    with Running([sys.executable, "-c", STUBBORN], environment=os.environ, folder=ROOT, log=log):
        pids = wait_until_printed(log)
        assert all(map(is_alive, pids))

    wait_until_dead(pids)


def test_nothing_outlives_a_benchmark_that_is_killed(tmp_path: Path) -> None:
    """After `kill -9` of the benchmark its workers and their children end too."""
    log = tmp_path / "log"
    harness = (
        "import os, sys, time; from pathlib import Path; from benchmarks.harness.processes import Running; "
        f"kept = Running([sys.executable, '-c', {STUBBORN!r}], environment=os.environ, folder=Path('.'), "
        f"log=Path({str(log)!r})); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", harness], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as it:
        pids = wait_until_printed(log)

        it.send_signal(signal.SIGKILL)

    wait_until_dead(pids)


def test_a_command_that_fails_is_told_with_its_last_lines(tmp_path: Path) -> None:
    """The exit code and what was printed are in the report."""
    with pytest.raises(DidNotFinishError, match="ended with exit code 3") as caught:
        finish(
            [sys.executable, "-c", "print('no broker'); raise SystemExit(3)"],
            environment=os.environ,
            folder=ROOT,
            log=tmp_path / "log",
            longest=20,
        )

    assert ["no broker"] == caught.value.log


def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """A command has its time; after that it is a run that did not finish."""
    with pytest.raises(DidNotFinishError, match=r"did not end within 0\.1 s"):
        finish(["sleep", "60"], environment=os.environ, folder=ROOT, log=tmp_path / "log", longest=0.1)


def test_what_a_command_printed_is_returned(tmp_path: Path) -> None:
    """Each command's own output is returned, also where several share a file."""
    log = tmp_path / "log"
    for text in ("first", "second"):
        assert f"{text}\n" == finish(["echo", text], environment=os.environ, folder=ROOT, log=log, longest=20)
