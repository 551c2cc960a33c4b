"""Handlers that do what no handler should: end their process, hang, block, ignore their cancelling, raise anything.

Each failure is told to the ledger before it happens, with the least seconds until the next attempt.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from qbridge import HandlerRegistry, RetryPolicy, TaskContext
from tests.support.chaos.handlers import note

__all__ = ["OVERTIME", "PAUSE", "TIMEOUT", "registry"]

registry = HandlerRegistry()

#: Seconds: the least pause before another attempt, the time limit of those that hang, how long they go on after it.
PAUSE, TIMEOUT, OVERTIME = 0.1, 0.4, 1.0

TWICE = RetryPolicy(max_attempts=2, base=PAUSE, jitter=False)

#: What no handler should raise, by name.
RAISED: dict[str, Callable[[], BaseException]] = {
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "BaseException": BaseException,
    "StopAsyncIteration": StopAsyncIteration,
}


@registry.task(retry=TWICE)
async def end_process(context: TaskContext) -> None:
    """Take the whole process along, at once."""
    note("start", context)
    os._exit(9)


@registry.task(retry=TWICE, timeout=TIMEOUT)
async def hang(context: TaskContext) -> None:
    """Never return."""
    note("start", context)
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        note("fail", context, PAUSE)
        raise


@registry.task(retry=TWICE, timeout=TIMEOUT)
async def ignore_cancelling(context: TaskContext) -> None:
    """Go on after the time limit, as if nothing had happened."""
    note("start", context)
    until = time.monotonic() + TIMEOUT + OVERTIME
    has_failed = False
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            if not has_failed:  # it may be tried again from here on, though it goes on
                note("fail", context, PAUSE)
            has_failed = True


@registry.task(retry=TWICE)
async def raise_anything(name: str, context: TaskContext) -> None:
    """Raise what no handler should."""
    note("start", context)
    await asyncio.sleep(0)
    note("fail", context, PAUSE)
    raise RAISED[name]()


@registry.task(retry=TWICE)
def raise_in_thread(name: str, context: TaskContext) -> None:
    """Do that in a worker thread."""
    note("start", context)
    note("fail", context, PAUSE)
    raise RAISED[name]()


@registry.task
async def block(seconds: float, context: TaskContext) -> None:
    """Hold the loop up."""
    note("start", context)
    time.sleep(seconds)  # noqa: ASYNC251  # what a handler must not do
    note("end", context)


@registry.task(retry=TWICE)
async def wedge(until: str, context: TaskContext) -> None:
    """Hold the loop up at the first attempt, until there is a file of that name."""
    note("start", context)
    if context.attempt == 1:
        note("fail", context, PAUSE)
        while not Path(until).exists():  # noqa: ASYNC240  # what a handler must not do
            time.sleep(0.01)  # noqa: ASYNC251  # nor that
    else:
        note("end", context)
