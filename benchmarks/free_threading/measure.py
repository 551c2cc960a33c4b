"""Measures what further loop threads bring with and without the global interpreter lock.

    python benchmarks/free_threading/build.py            # once
    python benchmarks/free_threading/measure.py          # five rounds, half a minute each
    python benchmarks/free_threading/measure.py --note   # writes docs/reference/free-threading.json; then `make docs`

Each round runs every case once, one after the other, so that what else the machine does meets all of them alike. Rounds
add up in `.bench/free-threading/runs.jsonl`; `--fresh` begins anew. What is noted are medians, with the lowest and the
highest of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

TOP = Path(__file__).resolve().parents[2]
PLACE = TOP / ".bench" / "free-threading"
RUNS = PLACE / "runs.jsonl"
NOTED = TOP / "docs" / "reference" / "free-threading.json"
WORKLOAD = Path(__file__).with_name("workload.py")

#: Environment, and what PYTHON_GIL is there; None leaves the lock as that interpreter has it.
INTERPRETERS = [("venv", "0"), ("venv", "1"), ("venv-beside", None)]
TASKS = {"no-op": 40_000, "cpu": 8_000}
THREADS = [1, 2]

#: Seconds after which a run is given up.
TIMEOUT = 120


def run(environment: str, lock: str | None, handler: str, threads: int) -> dict[str, Any]:
    """Run one case in a process of its own; return what it measured.

    Raises:
        RuntimeError: The interpreter has the lock on though it was to be off, or the other way.
    """
    python = PLACE / environment / "bin" / "python"
    variables = dict(os.environ)
    variables.pop("PYTHON_GIL", None)
    if lock is not None:
        variables["PYTHON_GIL"] = lock
    command = [python, WORKLOAD, handler, str(threads), str(TASKS[handler])]
    printed = subprocess.run(
        command, env=variables, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT
    ).stdout
    measured: dict[str, Any] = json.loads(printed)
    if measured["gil"] is (lock == "0"):
        raise RuntimeError(f"{python} ran with gil={measured['gil']}, and PYTHON_GIL was {lock}")
    return measured


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each interpreter and handler: medians over the rounds, and how far they are spread."""
    rows = []
    for python, gil, handler in sorted({(one["python"], one["gil"], one["handler"]) for one in runs}, reverse=True):
        row: dict[str, Any] = {"python": python, "gil": gil, "handler": handler}
        for threads in THREADS:
            case = (python, gil, handler, threads)
            mine = [one for one in runs if (one["python"], one["gil"], one["handler"], one["threads"]) == case]
            rates = [one["per_second"] for one in mine]
            row[f"threads_{threads}"] = {
                "median": round(median(rates)),
                "lowest": round(min(rates)),
                "highest": round(max(rates)),
                "main_us": round(median(one["main_us"] for one in mine), 1),
                "loops_us": round(median(one["loops_us"] for one in mine), 1),
            }
        row["gain"] = round(row[f"threads_{THREADS[-1]}"]["median"] / row[f"threads_{THREADS[0]}"]["median"], 2)
        rows.append(row)
    return rows


def note(runs: list[dict[str, Any]]) -> None:
    """Write the rows where the documentation takes them from."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=TOP, capture_output=True, text=True, check=True
    ).stdout.strip()
    noted = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "cores": os.cpu_count(),
        "processor": next(
            (
                line.partition(": ")[2]
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        ),
        "pydantic": sorted({one["pydantic"] for one in runs}),
        "rounds": min(len([one for one in runs if one["handler"] == handler]) for handler in TASKS)
        // (len(INTERPRETERS) * len(THREADS)),
        "rows": summary(runs),
    }
    NOTED.write_text(json.dumps(noted, indent=2) + "\n")
    print(f"noted in {NOTED.relative_to(TOP)}; `make docs` puts it into docs/concepts/performance.md")


def main() -> None:
    """Measure, or note what was measured."""
    parser = argparse.ArgumentParser(description="Measure loop threads with and without the global interpreter lock.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fresh", action="store_true", help="forget earlier rounds")
    parser.add_argument("--note", action="store_true", help="measure nothing, write down what was measured")
    given = parser.parse_args()
    if not (PLACE / "venv-beside").is_dir():
        sys.exit("run benchmarks/free_threading/build.py first")
    if given.fresh:
        RUNS.unlink(missing_ok=True)
    if not given.note:
        for turn in range(given.rounds):
            for (environment, lock), handler, threads in product(INTERPRETERS, TASKS, THREADS):
                measured = run(environment, lock, handler, threads)
                with RUNS.open("a") as file:
                    file.write(json.dumps(measured) + "\n")
                print(
                    f"{turn + 1}: CPython {measured['python']}, lock {'on' if measured['gil'] else 'off'}, {handler}, "
                    f"{threads} loop thread(s): {measured['per_second']:,.0f}/s, CPU per task "
                    f"{measured['main_us']:.1f} µs main, {measured['loops_us']:.1f} µs loops",
                    flush=True,
                )
    runs = [json.loads(line) for line in RUNS.read_text().splitlines()]
    if given.note:
        note(runs)
    else:
        for row in summary(runs):
            print(json.dumps(row))


if __name__ == "__main__":
    main()
