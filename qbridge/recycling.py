"""Recycling: when a worker process is worn out, by the tasks it has run or by the memory it holds."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from qbridge.config import RecycleConfig

__all__ = ["Wear", "resident_memory"]

_STATM = Path("/proc/self/statm")


class Wear:
    """How far a worker process is from its limits.

    Args:
        limits: The settings.
        tasks: Returns how many tasks have ended in this process.
    """

    def __init__(self, limits: RecycleConfig, tasks: Callable[[], int]) -> None:
        self._limits = limits
        self._tasks = tasks

    def reason(self) -> str | None:
        """Return which limit is reached, with the figure that reached it; None if none is."""
        limits = self._limits
        if limits.max_tasks is not None and (tasks := self._tasks()) >= limits.max_tasks:
            return f"max_tasks: {tasks} of {limits.max_tasks}"
        if limits.max_rss is not None and (memory := resident_memory()) > limits.max_rss:
            return f"max_rss: {memory} of {limits.max_rss} bytes"
        return None


def resident_memory() -> int:
    """Return the bytes of memory that this process has in RAM: the most it ever had, where there is no /proc."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, others KiB
