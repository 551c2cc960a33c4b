"""Handlers of a service that is looked at when its first task runs, and ends there; see `start.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qbridge import HandlerRegistry

registry = HandlerRegistry()


def write_modules(file: str) -> None:
    """Write down what is loaded, a name a line."""
    Path(file).write_text("\n".join(sys.modules))


@registry.task
async def tell_modules(file: str) -> None:
    """Tell what is loaded, and end the service."""
    write_modules(file)
    os._exit(0)


@registry.task
async def compare_with(turns: int) -> None:
    """Let valgrind see where the start ends, then where so many turns of the reference do."""
    os.getsid(0)
    from tests.performance.drained_queue import reference

    reference(turns // 10)
    os.getsid(0)
    reference(turns)
    os.getsid(0)
    os._exit(0)
