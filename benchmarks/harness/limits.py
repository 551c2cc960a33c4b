"""The limits: bare client loops beside which the systems are shown.

A module of `benchmarks.limits` has `LIMITS`, and is a program: `python -m benchmarks.limits.<module> KEY` in the
project's own environment, with `BENCH_URL` and `BENCH_FOLDER` in the environment as for a system. It prints one line of
JSON, `{"tasks": 20000, "seconds": 0.31}`: how many tasks, and how long they took without what was prepared before.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

from benchmarks import limits

__all__ = ["Limit", "known_limits"]


@dataclass(frozen=True)
class Limit:
    """One bare loop.

    Args:
        key: Its name, which the plot shows: `redis-claim-ack-100`.
        broker: `redis`, `rabbitmq`, `sqlite` or `memory` (none).
        title: What it does, for a reader: `claim and ack of 100 in one Lua call, with leases`.
        beside: The workload whose figure for qbridge is shown beside it; empty if there is none that compares.
    """

    key: str
    broker: str
    title: str
    beside: str = "drain"


def known_limits() -> list[tuple[str, Limit]]:
    """Return all limits, each with the name of its module."""
    found = []
    for module in sorted(pkgutil.iter_modules(limits.__path__), key=lambda module: module.name):
        name = f"{limits.__name__}.{module.name}"
        found += [(name, limit) for limit in getattr(importlib.import_module(name), "LIMITS", ())]
    return found
