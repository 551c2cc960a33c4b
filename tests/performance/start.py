"""What the start of `qbridge run` takes until its first task, in figures that don't depend on the machine.

The service is a process of its own, started as operators do, with a task in its queue. Its loops are asyncio's, which
are there everywhere.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qbridge import QBridge
from tests.performance.costs import counted_instructions, output_of
from tests.performance.drained_queue import TURNS

__all__ = ["by_package", "further", "instructions_until_first_task", "modules_at_first_task", "own_modules"]


def modules_at_first_task(queue: Mapping[str, Any]) -> list[str]:
    """Return the modules that a service has loaded when its first task runs, less those of a bare interpreter.

    Args:
        queue: The keys of its only queue, as in the YAML.
    """
    with tempfile.TemporaryDirectory(prefix="qbridge-start-") as folder:
        told = Path(folder) / "modules.json"
        config = _prepared(folder, queue, "tell_modules", str(told))
        output_of(sys.executable, *_command(config))
        loaded = set(told.read_text().split())
    bare = output_of(sys.executable, "-c", "import sys; print(*sys.modules)").split()
    return sorted(loaded.difference(bare))


def instructions_until_first_task() -> float:
    """Return what the start on SQLite takes, in thousands of turns of the reference workload."""
    with tempfile.TemporaryDirectory(prefix="qbridge-start-") as folder:
        queue = {"backend": "sqlite", "path": f"{folder}/q.db"}
        # What is compiled for the first run is there for the second one, as in a service that was installed.
        variables = {"PYTHONPYCACHEPREFIX": f"{folder}/cache", "PYTHONDONTWRITEBYTECODE": ""}
        for number in range(2):
            config = _prepared(folder, queue, "compare_with", TURNS if number else 0)
            if not number:
                output_of(sys.executable, *_command(config), variables=variables)
        start, _, reference = counted_instructions(*_command(config), parts=3, variables=variables)
    return round(start / (reference / TURNS) / 1000, 2)


def own_modules(modules: Iterable[str]) -> list[str]:
    """Return the modules of qbridge among them."""
    return [name for name in modules if name == "qbridge" or name.startswith("qbridge.")]


def by_package(modules: Iterable[str]) -> dict[str, int]:
    """Return how many there are of each package."""
    return dict(sorted(Counter(name.partition(".")[0] for name in modules).items()))


def further(noted: Mapping[str, int], modules: Iterable[str]) -> dict[str, int]:
    """Return the packages of which there are more modules than was noted, each with how many more."""
    more = Counter(by_package(modules))
    more.subtract(noted)
    return {name: count for name, count in more.items() if count > 0}


def _prepared(folder: str, queue: Mapping[str, Any], task: str, *arguments: object) -> Path:
    """Send a task, and return the configuration of a service for it."""

    async def send() -> None:
        async with QBridge(queues={"default": queue}) as bridge:
            await bridge.send(task, *arguments)

    asyncio.run(send())
    config = Path(folder) / "qbridge.yaml"
    keys = {
        "handlers": ["tests.performance.first_task"],
        "queues": {"default": dict(queue)},
        "loops": {"default": {"implementation": "asyncio"}},
        "logging": {"level": "warning"},
    }
    config.write_text(json.dumps(keys))  # YAML takes JSON
    return config


def _command(config: Path) -> tuple[str, ...]:
    return ("-m", "qbridge", "run", "-c", str(config))
