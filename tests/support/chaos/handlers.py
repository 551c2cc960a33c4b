"""Handlers of a campaign's workers: each tells the ledger what it does, in the ways in which real ones differ.

A worker imports this module (`handlers: [tests.support.chaos.handlers]`) in its own process, in the campaign's folder.
There, and nowhere else, the failpoints are set, and the process tells when it could not keep its leases.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qbridge import HandlerRegistry, Retry, TaskContext
from tests.support.chaos import failpoints, stalls

__all__ = ["note", "noted", "registry"]

registry = HandlerRegistry()

#: Many handlers end at once, as in a burst, so that settlements travel in batches: seconds between such moments.
TICK = 0.05


def note(kind: str, context: TaskContext, detail: float | str = "") -> None:
    """Write a line: `start`, `end`, `fail` with the least seconds until the next attempt, or `cancel`."""
    _write(f"{kind} {context.id} {os.getpid()} {context.attempt} {time.monotonic():.6f} {detail}".rstrip() + "\n")


@contextmanager
def noted(context: TaskContext) -> Iterator[None]:
    """Write a line at the start, and one at the end or when the handler is cancelled; a failure writes its own."""
    note("start", context)
    try:
        yield
    except asyncio.CancelledError:
        note("cancel", context)
        raise
    note("end", context)


@registry.task
async def work(context: TaskContext) -> None:
    """Take up to two ticks."""
    with noted(context):
        failpoints.reached("running")
        await asyncio.sleep(2 * TICK - time.monotonic() % TICK)


@registry.task
async def work_long(seconds: float, context: TaskContext) -> None:
    """Take some time, so that whatever happens finds some handlers at work."""
    with noted(context):
        await asyncio.sleep(seconds)
        failpoints.reached("running")


@registry.task
async def fail_at_first(failures: int, pause: float, context: TaskContext) -> None:
    """Fail so many attempts, and ask to be tried again after a pause."""
    with noted(context):
        await asyncio.sleep(TICK / 5)
        if context.attempt <= failures:
            note("fail", context, pause)
            raise Retry(delay=pause, reason="a campaign wants it")


@registry.task
def work_in_thread(context: TaskContext) -> None:
    """Be a plain function."""
    with noted(context):
        time.sleep(TICK / 2)
        failpoints.reached("running")


def _write(line: str) -> None:
    os.write(_ledger(), line.encode())


@functools.cache
def _ledger() -> int:
    return os.open(Path(os.environ[failpoints.FOLDER]) / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


if failpoints.FOLDER in os.environ:
    failpoints.install()
    stalls.install(Path(os.environ[failpoints.FOLDER]))
