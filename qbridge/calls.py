"""Waiting with a limit: for events, and for calls to the outside, even for one that ignores being cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from qbridge.errors import SourceUnavailable

__all__ = ["CANCEL_PATIENCE", "any_within", "call_within", "leave_behind", "run_until_one_ends"]

#: Seconds that a call gets to end once it is cancelled; one that takes longer ignores it, and is left behind.
CANCEL_PATIENCE = 1.0

# A strong reference to each call that was left behind: the loop itself keeps only weak ones to its tasks.
_left_behind: set[asyncio.Task[Any]] = set()

T = TypeVar("T")


async def call_within(seconds: float, call: Coroutine[Any, Any, T], *, patience: float | None = None) -> T:
    """Await a call to the outside; return its result.

    Cancelling this cancels the call, and waits for its end within the same patience.

    Args:
        seconds: How long it may take.
        call: What is awaited, in a task of its own.
        patience: Seconds that it gets to end once it is cancelled; None takes `CANCEL_PATIENCE`.

    Raises:
        TimeoutError: It did not return in time. Whether it was cancelled or left behind makes no difference.
        SourceUnavailable: It was cancelled from within, though nobody here did that.
    """
    patience = CANCEL_PATIENCE if patience is None else patience
    name = getattr(call, "__qualname__", "a call")
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        await _end(task, patience)
        raise
    if not done:
        task.cancel()
        await _end(task, patience)
        raise TimeoutError(f"{name} did not return within {seconds:g} s")
    if task.cancelled():
        raise SourceUnavailable(f"{name} was cancelled from within")
    return task.result()


async def run_until_one_ends(
    calls: Mapping[str, Coroutine[Any, Any, None]],
    *,
    end_others: Callable[[], None],
    margin: Callable[[], float],
    patience: float,
) -> Exception | None:
    """Run calls side by side until one of them ends, and then let the others end too.

    Args:
        calls: What to run, by the names that the tasks get.
        end_others: Called when the first has ended; the others are to end by it.
        margin: Asked then: seconds in which they do. Those that don't are cancelled.
        patience: Seconds that they get to end once they are cancelled. Those that don't are left behind.

    Returns:
        The first error in the order of the calls; None if there was none.
    """
    tasks = [asyncio.create_task(call, name=name) for name, call in calls.items()]
    late: set[asyncio.Task[None]] = set()
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        end_others()
        _, late = await asyncio.wait(tasks, timeout=margin())
        for task in late:
            task.cancel()
        if late:
            _, late = await asyncio.wait(late, timeout=patience)
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
                leave_behind(task)
    faults = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    return next((fault for fault in faults if isinstance(fault, Exception)), None)


async def any_within(timeout: float | None, *events: asyncio.Event) -> bool:
    """Wait until one of the events is set; return False after `timeout` seconds, None being without limit."""
    if any(event.is_set() for event in events):
        return True
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return bool(done)


async def _end(task: asyncio.Task[Any], patience: float) -> None:
    done, _ = await asyncio.wait([task], timeout=patience)
    if done:
        _forget(task)
    else:
        leave_behind(task)


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Keep a task that ignores being cancelled until it ends, and let nobody be told of how it ends.

    One that has ended is forgotten at once.
    """
    _left_behind.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # has been asked for, so that nobody complains of an exception that nobody saw
