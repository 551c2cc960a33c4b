"""A wall clock that can be set, for all the processes of a campaign at once: as an operator or NTP sets a machine's.

A process that imports this module in a campaign's folder reads its wall clock through it: the machine's time, and what
the file `clock` there adds to it. Its monotonic clock is left alone, as a real one is. What SQLite keeps is told by the
wall clock, as it must hold for several processes and outlive them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from qbridge import HandlerRegistry
from tests.support.chaos import failpoints

__all__ = ["advance_clock", "registry"]

#: No handlers: a module of them is what a worker can be told to import.
registry = HandlerRegistry()


def advance_clock(folder: Path, seconds: float) -> None:
    """Set the clocks of a campaign's processes so many seconds on, or back if negative, at once."""
    file, beside = folder / "clock", folder / "clock.new"
    before = float(file.read_text()) if file.exists() else 0.0
    beside.write_text(str(before + seconds))
    beside.rename(file)


def _install(folder: Path) -> None:
    machine, file = time.time, folder / "clock"

    def stepped() -> float:
        try:
            return machine() + float(file.read_text())
        except FileNotFoundError:
            return machine()

    time.time = stepped


if failpoints.FOLDER in os.environ:
    _install(Path(os.environ[failpoints.FOLDER]))
