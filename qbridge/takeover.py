"""Takeover: what becomes of the jobs that a loop thread leaves which was given up, as its loop is blocked.

The loop may turn again at any moment and touch its jobs. So each of them has an heir, a copy that only the main thread
knows: it is held, settled and told about in the job's place.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any

from qbridge.execution import CancelReason, Job, failed, settle_raised
from qbridge.source import MAX_ERROR_LENGTH
from qbridge.stacks import Sight

__all__ = ["heir_of"]


def heir_of(job: Job, sight: Sight, seconds: float, on_ended: Callable[[Job], None]) -> Job:
    """Return the heir of a job that a fenced-off loop thread has; it has ended unless a worker thread runs it.

    The attempt of whoever blocks the loop has failed; what else had started is released. A plain function works on in
    its thread, so its message is not given to anybody else: how it ends is learnt from that thread.

    Args:
        job: The job. Its handler is cancelled if the loop turns again.
        sight: What the loop thread was doing.
        seconds: For how long its loop was blocked.
        on_ended: Gets the heir, on the running loop, when the worker thread has ended.
    """
    heir = copy.copy(job)
    heir.task = None
    if heir.ended_at and heir.settlement is not None:  # it ended just before its thread was fenced off
        return heir
    job.cancel_reason = CancelReason.LEASE_LOST
    heir.ended_at = 0.0
    if heir.cancel_reason is not CancelReason.TIMEOUT:
        heir.cancel_reason = None
    call = job.thread.call_of(job)
    if call is not None and not call.cancel():
        _await_call(heir, call, on_ended)
        return heir
    heir.ended_at = monotonic()
    heir.started_at = heir.started_at or heir.ended_at
    if job in sight.suspects:
        who = f"handler {job.handler.name!r}" if len(sight.suspects) == 1 else "this or another handler"
        text = f"{who} blocked loop thread {job.thread.name!r} for {seconds:.1f} s, so that was given up"
        heir.error = f"{text}\n{sight.stack}".rstrip()[:MAX_ERROR_LENGTH]
        heir.settlement = failed(heir)
    else:
        heir.settlement = heir.delivery.release()
    return heir


def _await_call(heir: Job, call: Future[Any], on_ended: Callable[[Job], None]) -> None:
    home = asyncio.get_running_loop()

    def end() -> None:
        heir.ended_at = monotonic()
        _settle_call(heir, call)
        on_ended(heir)

    def tell_home(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the main loop is closed: nobody waits there any more
            home.call_soon_threadsafe(end)

    call.add_done_callback(tell_home)


def _settle_call(heir: Job, call: Future[Any]) -> None:
    """Settle a job by how its plain function ended."""
    exc = call.exception()
    if exc is not None:
        settle_raised(heir, exc)
        return
    result = call.result()
    if asyncio.iscoroutine(result):  # it was to go on on the loop that is blocked
        result.close()
        heir.settlement = heir.delivery.release()
    elif heir.cancel_reason is CancelReason.TIMEOUT:
        settle_raised(heir, asyncio.CancelledError())
    else:
        heir.settlement = heir.delivery.ack()
