"""What a task costs, in figures that don't depend on how fast or how busy the machine is.

Each is measured in a process of its own, with a fixed hash seed: the instructions that valgrind's callgrind counts, as
a multiple of what a turn of a pure Python workload takes in the same interpreter, and the calls of functions. Both are
sums over the main thread and a loop thread.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.performance.drained_queue import TASKS, TURNS

__all__ = [
    "BASELINE",
    "blocks_left",
    "calls_per_send",
    "calls_per_task",
    "complaint",
    "counted_instructions",
    "instructions_per_task",
    "output_of",
    "version",
    "worse_functions",
    "worth_noting",
]

#: What was noted, by Python version where it depends on that.
BASELINE = Path(__file__).with_name("baseline.json")

TOP = Path(__file__).parents[2]

#: Seconds that a program under valgrind may take, on a busy machine.
_PATIENCE = 300.0

_PYTHON = sys.executable
_PROGRAM = ("-m", "tests.performance.drained_queue")

#: Calls per task by which a function may exceed what was noted; one more for each task is 1.
_MORE_CALLS = 0.5


def version() -> str:
    """Return the version of Python by which figures are noted."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def instructions_per_task() -> float:
    """Return what a task takes, in turns of the reference workload; 1 is some 3,700 instructions."""
    # Up to the first mark, the reference, up to the drain, the drain.
    _, reference, _, drain = counted_instructions(*_PROGRAM, "instructions", parts=4)
    return round((drain / TASKS) / (reference / TURNS), 2)


def counted_instructions(*arguments: str, parts: int, variables: Mapping[str, str] | None = None) -> list[int]:
    """Return the instructions of a Python program, those of each part that ends with a call of getsid.

    Args:
        *arguments: What the interpreter is called with.
        parts: How many parts there are; what comes after them is not counted.
        variables: What its environment has beside that of this process.
    """
    with tempfile.TemporaryDirectory(prefix="qbridge-callgrind-") as folder:
        counts = Path(folder) / "counts"
        output_of(
            "valgrind",
            "--tool=callgrind",
            "--quiet",
            "--fair-sched=yes",  # the threads take turns, and batches are as large each time
            "--dump-before=getsid",
            f"--callgrind-out-file={counts}",
            _PYTHON,
            *arguments,
            variables=variables,
        )
        return [_total(counts.with_name(f"{counts.name}.{part}")) for part in range(1, parts + 1)]


def calls_per_task() -> dict[str, float]:
    """Return how often each function is called for a task, in the mean."""
    counts: dict[str, int] = json.loads(output_of(_PYTHON, *_PROGRAM, "calls"))
    return {name: round(count / TASKS, 3) for name, count in sorted(counts.items())}


def calls_per_send() -> dict[str, float]:
    """Return how many functions are called for a message, in the mean, for each way to send."""
    counts: dict[str, int] = json.loads(output_of(_PYTHON, "-m", "tests.performance.sends"))
    return {way: round(count / TASKS, 1) for way, count in counts.items()}


def worth_noting(calls: dict[str, float]) -> dict[str, Any]:
    """Return what is noted of calls: their sum, and the functions that are called for each task, not for each batch."""
    return {
        "total": round(sum(calls.values()), 1),
        "functions": {name: round(count, 1) for name, count in calls.items() if count >= _MORE_CALLS},
    }


def blocks_left() -> int:
    """Return how many blocks of memory are left of all tasks, once they are done and their queue is gone."""
    left: int = json.loads(output_of(_PYTHON, *_PROGRAM, "blocks"))
    return left


def complaint(what: str, noted: float, measured: float, *, within: float) -> str:
    """Return what is to be said of a figure that is more than `within` times what was noted, or less than that part."""
    if noted / within <= measured <= noted * within:
        return ""
    change = f"{what}: {noted:g} noted, {measured:g} measured ({measured / noted - 1:+.0%})"
    if measured < noted:
        return f"{change}. It has become cheaper: note that with `make costs`, so that it stays so"
    return f"{change}. It has become dearer. If it is worth that, note it with `make costs`"


def worse_functions(noted: dict[str, float], measured: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Return the functions that are called more often for a task than was noted, with both figures."""
    return {
        name: (noted.get(name, 0.0), count)
        for name, count in measured.items()
        if count > noted.get(name, 0.0) + _MORE_CALLS
    }


def output_of(*command: str, variables: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return what it has printed; no variable of qbridge's own reaches it.

    Raises:
        RuntimeError: It failed.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("QBRIDGE_")}
    environment = inherited | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"} | dict(variables or {})
    done = subprocess.run(
        command, cwd=TOP, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def _total(file: Path) -> int:
    found = re.search(r"^totals: (\d+)", file.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"callgrind wrote no totals into {file.name}")
    return int(found[1])
