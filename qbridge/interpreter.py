"""How the interpreter is set in a process whose main job is the worker. Nothing here is for a program that imports
qbridge: what is set holds for the whole process.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["settle_in", "tune", "uncollected"]

#: Seconds after which a thread that wants to run may take the interpreter from a busy one. With CPython's 5 ms a
#: handler that computes cuts the broker's traffic in the main thread from 132,000 to 10,000 round trips a second;
#: with 0.5 ms it keeps 58,000 (measured November 2026, CPython 3.11, two cores).
SWITCH_INTERVAL = 0.0005

#: Objects by which those alive may grow before the collector looks for cycles among the newest. A hundred tasks in
#: flight are some 1,500 objects, so with CPython's 700 each batch of a claim set it off, to find nothing: 18 against
#: 15 µs for a task (measured November 2026, CPython 3.11, memory backend).
YOUNG_OBJECTS = 5000

_THRESHOLDS_AT_START = gc.get_threshold()


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the collector from looking at what is made inside, then or later: for imports, which stay to the end.

    It finds almost nothing among them, and takes a twentieth of a start (November 2026, CPython 3.11).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def tune() -> None:
    """Set how threads take turns, and how often the collector runs unless a handler's module has set that itself."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    young, *older = _THRESHOLDS_AT_START
    if gc.get_threshold() == _THRESHOLDS_AT_START and 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *older)


def settle_in() -> None:
    """Take what lives by now, which is all that was imported, out of the collector's sight: it stays to the end."""
    gc.freeze()
