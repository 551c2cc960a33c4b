"""The handlers of the soak: each notes its end, in a few bytes, in a file that survives whatever kills its process."""

from __future__ import annotations

import asyncio
import os
import struct
import time

from qbridge import HandlerRegistry, TaskContext

__all__ = ["END", "registry"]

#: One end: the task's number, the process, and whether the task ran before its time.
END = struct.Struct("<II?")

registry = HandlerRegistry()

_ends = os.open("ends", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _note(number: int, *, is_early: bool = False) -> None:
    os.write(_ends, END.pack(number, os.getpid(), is_early))


@registry.task
async def nothing(number: int) -> None:
    """Do nothing."""
    _note(number)


@registry.task
async def wait(number: int, seconds: float) -> None:
    """Wait, as for a network."""
    await asyncio.sleep(seconds)
    _note(number)


@registry.task
async def fail(number: int, context: TaskContext) -> None:
    """Fail, and succeed when it is tried again."""
    if context.attempt == 1:
        raise ConnectionError(f"the first attempt at {number} fails")
    _note(number)


@registry.task
def plain(number: int) -> None:
    """Work in a thread."""
    time.sleep(0.002)
    _note(number)


@registry.task
async def weigh(number: int, payload: str) -> None:
    """Take a large argument."""
    assert len(payload) == 10 * 1024
    _note(number)


@registry.task
async def later(number: int, due: float) -> None:
    """Run not before its time."""
    _note(number, is_early=time.time() < due)
