"""Stacks: what a thread does at this moment, and for which job. Looked at from another thread."""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
from collections.abc import Iterable
from contextvars import Context
from types import FrameType
from typing import NamedTuple

from qbridge.execution import MESSAGE_ID, Executor, Job
from qbridge.source import MAX_ERROR_LENGTH

__all__ = ["Sight", "jobs_on_threads", "look"]

#: The functions of ours in which a handler is called, on a loop or in a worker thread; each has a local `job`.
_CALLERS = frozenset({Executor._run.__code__, Executor._call.__code__})


class Sight(NamedTuple):
    """What a loop thread was doing when it was looked at.

    Attributes:
        suspects: Whose handler it was: one job where that is known; none if it was something that an ended handler has
            left on the loop; all that had started there if nobody can tell.
        stack: The thread's stack, innermost call last, at most `MAX_ERROR_LENGTH` / 2 characters; "" if it had none.
    """

    suspects: tuple[Job, ...]
    stack: str


def look(ident: int | None, loop: asyncio.AbstractEventLoop, running: Iterable[Job]) -> Sight:
    """Look at a loop thread. What is seen holds only while its loop is blocked.

    Args:
        ident: The thread's.
        loop: The loop that it runs.
        running: The jobs on that loop.
    """
    frame = sys._current_frames().get(ident or 0)
    if frame is None:
        return Sight((), "")
    started = [job for job in running if job.started_at]
    job = _job_on(frame)
    message_id = job.message.id if job is not None else _message_of_task(loop)
    suspects = [job for job in started if message_id in (None, job.message.id)]
    return Sight(tuple(suspects), _describe(frame))


def jobs_on_threads() -> set[Job]:
    """Return the jobs whose handlers are on the stack of any thread."""
    found = [_job_on(frame) for frame in sys._current_frames().values()]
    return {job for job in found if job is not None}


def _job_on(frame: FrameType | None) -> Job | None:
    while frame is not None:
        if frame.f_code in _CALLERS:
            job: Job | None = frame.f_locals.get("job")
            return job
        frame = frame.f_back
    return None


def _message_of_task(loop: asyncio.AbstractEventLoop) -> str | None:
    """Return the message that a loop's current task belongs to: a task that a handler has started knows it too."""
    try:
        task = asyncio.current_task(loop)
    except RuntimeError:  # whoever can't tell says so
        return None
    # Task.get_context() exists from Python 3.12 on; this is what it returns.
    for context in gc.get_referents(task):
        if isinstance(context, Context):
            return context.get(MESSAGE_ID)
    return None


def _describe(frame: FrameType) -> str:
    """Return the calls from the handler inwards, or the thread's whole stack if no handler is on it."""
    inner: list[tuple[FrameType, int]] = []
    for called, line in traceback.walk_stack(frame):
        if called.f_code in _CALLERS:
            break
        inner.append((called, line))
    lines = traceback.StackSummary.extract(iter(reversed(inner))).format()
    return "".join(lines).rstrip()[-MAX_ERROR_LENGTH // 2 :]
