"""Notes what a task costs, for the tests beside this file to compare with: `make costs`.

`python -m tests.performance.note --repeat 10` writes nothing, and shows by how much the figures differ from run to run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.performance.costs import (
    BASELINE,
    blocks_left,
    calls_per_send,
    calls_per_task,
    instructions_per_task,
    version,
    worth_noting,
)
from tests.performance.round_trips import rabbitmq_bytes, redis_requests, sqlite_transactions
from tests.performance.start import by_package, instructions_until_first_task, modules_at_first_task, own_modules
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

#: How often round trips are measured, of which the median is noted: they differ more than the rest.
_TRIPS = 5


def sqlite_in_its_own_folder() -> float:
    """Measure SQLite on a file that is removed."""
    with tempfile.TemporaryDirectory(prefix="qbridge-costs-") as folder:
        return sqlite_transactions(Path(folder))


def modules_on_sqlite() -> list[str]:
    """Return what a service on SQLite has loaded when its first task runs."""
    with tempfile.TemporaryDirectory(prefix="qbridge-costs-") as folder:
        return modules_at_first_task({"backend": "sqlite", "path": f"{folder}/q.db"})


def show(what: str, measure: Callable[[], float], times: int) -> None:
    """Print the figures of so many measurements, and their spread."""
    figures = [measure() for _ in range(times)]
    middle = sorted(figures)[len(figures) // 2]
    spread = f", {min(figures) / middle - 1:+.1%} to {max(figures) / middle - 1:+.1%}" if middle else ""
    print(f"{what}: {' '.join(f'{figure:g}' for figure in figures)}; median {middle:g}{spread}", flush=True)


def main() -> None:
    """Measure everything once and write it down, or several times and only show it."""
    parser = argparse.ArgumentParser(description="Note what a task costs.")
    parser.add_argument("--repeat", type=int, default=0, metavar="N", help="write nothing, show N measurements of each")
    times = parser.parse_args().repeat
    with RedisServer() as redis, RabbitServer() as rabbitmq:
        trips: dict[str, Callable[[], float]] = {
            "redis": lambda: redis_requests(redis),
            "rabbitmq": lambda: rabbitmq_bytes(rabbitmq),
            "sqlite": sqlite_in_its_own_folder,
        }
        if times:
            show("calls", lambda: round(sum(calls_per_task().values()), 2), times)
            show("calls of a send, of all ways together", lambda: round(sum(calls_per_send().values()), 1), times)
            show("blocks", blocks_left, times)
            for name, measure in trips.items():
                show(name, measure, times)
            show("modules of a start", lambda: len(modules_on_sqlite()), times)
            show("instructions", instructions_per_task, times)
            show("instructions of a start", instructions_until_first_task, times)
            return
        noted = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
        noted["round_trips"] = {
            name: round(median(measure() for _ in range(_TRIPS)), 1) for name, measure in trips.items()
        }
    modules = modules_on_sqlite()
    noted[version()] = {
        "instructions": instructions_per_task(),
        "calls": worth_noting(calls_per_task()),
        "sends": calls_per_send(),
        "start": {
            "instructions": instructions_until_first_task(),
            "modules": {"total": len(modules), "own": own_modules(modules), "packages": by_package(modules)},
        },
    }
    BASELINE.write_text(json.dumps(noted, indent=2, sort_keys=True) + "\n")
    print(f"noted in {BASELINE.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
