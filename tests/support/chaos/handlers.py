"""Handlers of a campaign's workers: each tells the ledger what it does, in the ways in which real ones differ.

A worker imports this module (`handlers: [tests.support.chaos.handlers]`) in its own process, in the campaign's folder.
There, and nowhere else, the failpoints are set, and a thread watches whether the machine forgets the process.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qbridge import HandlerRegistry, Retry, TaskContext
from tests.support.chaos import failpoints

__all__ = ["note", "noted", "registry"]

registry = HandlerRegistry()

#: Many handlers end at once, as in a burst, so that settlements travel in batches: seconds between such moments.
TICK = 0.05

#: Seconds for which a process may not have run before that is told. Leases are renewed each third of theirs.
STALL = 0.7


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


def _watch_for_stalls() -> None:
    """Tell when this process was not run for long, be it frozen or the machine busy, as it then can't keep a lease."""
    stalls = os.open(Path(os.environ[failpoints.FOLDER]) / "stalls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    before = time.monotonic()
    while True:
        time.sleep(0.05)
        now = time.monotonic()
        if now - before > STALL:
            os.write(stalls, f"{os.getpid()} {before:.6f} {now:.6f}\n".encode())
        before = now


if failpoints.FOLDER in os.environ:
    failpoints.install()
    threading.Thread(target=_watch_for_stalls, name="stalls", daemon=True).start()
