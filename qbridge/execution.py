"""One task in its loop: validate the arguments, keep the time limit, run the handler, decide the settlement."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from time import monotonic
from typing import Any

from qbridge.deadlines import Deadlines
from qbridge.errors import InvalidArgumentsError, Reject, Retry
from qbridge.message import TaskMessage
from qbridge.registry import Handler, TaskContext
from qbridge.retry import RetryPolicy
from qbridge.source import MAX_ERROR_LENGTH, DeadLetterReason, Delivery, Settlement
from qbridge.tracebacks import describe_error

__all__ = [
    "MESSAGE_ID",
    "CancelReason",
    "Executor",
    "Job",
    "WorkerThreads",
    "failed",
    "settle_raised",
]

log = logging.getLogger(__name__)

#: The id of the message that a handler works on, in the handler's context and in all that it starts: tells whose task
#: it is that blocks a loop.
MESSAGE_ID: contextvars.ContextVar[str] = contextvars.ContextVar("qbridge_message_id")


class CancelReason(Enum):
    """Why a handler is cancelled from outside; decides what becomes of its message."""

    #: Its time limit is over: the attempt failed.
    TIMEOUT = "timeout"
    #: The worker leaves: the message is released, the attempt doesn't count.
    DRAIN = "drain"
    #: Its lease is lost, or its loop was given up: the message is in other hands, nothing is settled.
    LEASE_LOST = "lease lost"


class Job:
    """One delivery on its way through the worker.

    The main thread makes it and hands it to one loop thread; from there until it is handed back only that thread
    touches it, except for `cancel_reason`, which is set on the loop too.

    Attributes:
        delivery: What the broker handed over.
        message: What it says.
        handler: What runs it.
        queue: The queue's name.
        retry: The policy in force for it.
        owner: The intake that settles it; opaque here.
        claimed_at: Monotonic seconds when it was claimed.
        started_at: Monotonic seconds when the handler's turn came; 0.0 before.
        ended_at: Monotonic seconds when it was over; 0.0 before.
        settlement: How it ends; None while it runs, and for ever if its lease was lost.
        error: The failure's text; "" if there was none.
        cancel_reason: Why it was cancelled, if it was.
        task: The asyncio task that runs it, while it runs.
        thread: The loop thread it was handed to; opaque here.
    """

    __slots__ = (
        "cancel_reason",
        "claimed_at",
        "delivery",
        "ended_at",
        "error",
        "handler",
        "message",
        "owner",
        "queue",
        "retry",
        "settlement",
        "started_at",
        "task",
        "thread",
    )

    def __init__(
        self,
        delivery: Delivery,
        message: TaskMessage,
        handler: Handler,
        *,
        queue: str,
        retry: RetryPolicy,
        owner: Any,
        claimed_at: float,
    ) -> None:
        self.delivery = delivery
        self.message = message
        self.handler = handler
        self.queue = queue
        self.retry = retry
        self.owner = owner
        self.claimed_at = claimed_at
        self.started_at = 0.0
        self.ended_at = 0.0
        self.settlement: Settlement | None = None
        self.error = ""
        self.cancel_reason: CancelReason | None = None
        self.task: asyncio.Task[None] | None = None
        self.thread: Any = None


class WorkerThreads(ThreadPoolExecutor):
    """Threads for what may not run on a loop. It knows them, so as to tell of those that don't end.

    Args:
        count: How many run at once; None takes Python's own choice.
        name: What their names begin with.
    """

    def __init__(self, count: int | None, name: str) -> None:
        super().__init__(count, thread_name_prefix=name, initializer=self._note)
        self._noted: list[threading.Thread] = []

    @property
    def alive(self) -> int:
        """How many of the threads have not ended; they hold the process."""
        return sum(thread.is_alive() for thread in self._noted)

    def leave(self, timeout: float) -> None:
        """Call off what has not begun, and wait at most `timeout` seconds for the rest."""
        self.shutdown(wait=False, cancel_futures=True)
        deadline = monotonic() + timeout
        for thread in self._noted:
            thread.join(max(0.0, deadline - monotonic()))

    def _note(self) -> None:
        self._noted.append(threading.current_thread())


class Executor:
    """Runs jobs on one event loop. Belongs to that loop: every method is called on it.

    Args:
        loop: The loop.
        name: The loop thread's name, for contexts and worker threads.
        worker_threads: How many plain functions run at once; more wait for their turn.
        send: Sends a further task, for `TaskContext.send`.
        on_end: Gets each job that is over.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        name: str,
        worker_threads: int,
        send: Callable[..., Awaitable[str]],
        on_end: Callable[[Job], object],
    ) -> None:
        self._loop = loop
        self._name = name
        self._send = send
        self._on_end = on_end
        self._workers = WorkerThreads(worker_threads, f"{name}-worker")
        self._deadlines: Deadlines[Job] = Deadlines(loop, self._time_out)
        #: Jobs that have not ended. A strong reference: the loop itself keeps only weak ones to its tasks.
        self.running: dict[Job, None] = {}
        #: What was handed to a worker thread, from then until its loop has heard of its end.
        self.calls: dict[Job, Future[Any]] = {}

    def start(self, jobs: list[Job]) -> None:
        """Start jobs, in order, each in a context of its own."""
        create_task = self._loop.create_task
        for job in jobs:
            # Known before it runs, so that whoever asks what runs is never told too little.
            self.running[job] = None
            job.task = create_task(self._run(job), context=contextvars.Context())

    def cancel(self, job: Job, reason: CancelReason) -> None:
        """Cancel a job for a reason; what becomes of its message follows from the first reason given.

        One that has not come to the loop yet will end as soon as it does; one that has ended is left alone.
        """
        if job.ended_at:
            return
        if job.cancel_reason is None or reason is CancelReason.LEASE_LOST:
            job.cancel_reason = reason
        # A task cancelled before its first step would never run, and never report: it looks at the reason by itself.
        if job.started_at and job.task is not None:
            job.task.cancel()

    def cancel_all(self, reason: CancelReason) -> None:
        """Cancel every job that has not ended."""
        for job in list(self.running):
            self.cancel(job, reason)

    @property
    def left_behind(self) -> int:
        """How many worker threads have not ended, though this was closed; they hold the process."""
        return self._workers.alive

    def dismiss(self) -> None:
        """Call off the plain functions that have not begun, and let worker threads end by themselves.

        May be called from any thread, when the loop does not turn any more.
        """
        self._workers.shutdown(wait=False, cancel_futures=True)

    def close(self, timeout: float) -> None:
        """Let go of the worker threads, and wait at most `timeout` seconds for those that are busy."""
        self._deadlines.close()
        self._workers.leave(timeout)

    async def _run(self, job: Job) -> None:
        job.started_at = monotonic()
        handler = job.handler
        MESSAGE_ID.set(job.message.id)
        try:
            if job.cancel_reason is not None:
                raise asyncio.CancelledError  # noqa: TRY301  # one place decides what a cancelled job becomes
            if handler.timeout is not None and handler.is_coroutine:
                self._deadlines.add(job, handler.timeout)
            context = self._context_of(job) if handler.wants_context else None
            args, kwargs = handler.bind(job.message, context)
            if handler.is_coroutine:
                await handler.function(*args, **kwargs)
            else:
                await self._run_in_thread(job, args, kwargs)
            # A handler that swallowed its cancellation, or whose thread ran on, has failed all the same.
            is_late = job.cancel_reason is CancelReason.TIMEOUT
            job.settlement = _timed_out(job) if is_late else job.delivery.ack()
        except BaseException as exc:  # the border to the handler: even SystemExit must not end the loop
            if isinstance(exc, GeneratorExit) and self._loop.is_closed():
                raise  # Python takes down a coroutine whose loop has gone: the dispatcher has given this job up
            settle_raised(job, exc)
        job.ended_at = monotonic()
        job.task = None
        if job.cancel_reason is CancelReason.LEASE_LOST:
            job.settlement = None
        if handler.timeout is not None:
            self._deadlines.discard(job, handler.timeout)
        del self.running[job]
        self._on_end(job)

    def _context_of(self, job: Job) -> TaskContext:
        message = job.message
        return TaskContext(
            id=message.id,
            task=message.task,
            queue=job.queue,
            attempt=job.delivery.attempt,
            max_attempts=job.retry.max_attempts,
            headers=message.headers,
            enqueued_at=message.enqueued_at,
            loop_thread=self._name,
            _send=self._send,
        )

    async def _run_in_thread(self, job: Job, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        context = contextvars.copy_context()
        future = self.calls[job] = self._workers.submit(context.run, self._call, job, args, kwargs)
        try:
            result = await _result_of(future)
        finally:
            del self.calls[job]
        if inspect.iscoroutine(result):  # a plain decorator stands around a coroutine function
            await result

    def _call(self, job: Job, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a plain function, in its worker thread."""
        if job.handler.timeout is not None:  # from here on: waiting for a free thread is no part of the attempt
            self._loop.call_soon_threadsafe(self._deadlines.add, job, job.handler.timeout)
        try:
            return job.handler.function(*args, **kwargs)
        except StopIteration as exc:  # no future can carry it, as no coroutine can raise it
            raise RuntimeError("handler raised StopIteration") from exc

    def _time_out(self, job: Job) -> None:
        self.cancel(job, CancelReason.TIMEOUT)


def settle_raised(job: Job, exc: BaseException) -> None:
    """Decide what becomes of a job whose handler raised."""
    if isinstance(exc, asyncio.CancelledError) and job.cancel_reason is not None:
        is_late = job.cancel_reason is CancelReason.TIMEOUT
        job.settlement = _timed_out(job) if is_late else job.delivery.release()
    elif isinstance(exc, InvalidArgumentsError):
        job.error = str(exc)[:MAX_ERROR_LENGTH]
        job.settlement = job.delivery.dead_letter(DeadLetterReason.INVALID, job.error)
    elif isinstance(exc, Reject):
        job.error = str(exc.reason)[:MAX_ERROR_LENGTH] or "rejected by the handler"
        job.settlement = job.delivery.dead_letter(DeadLetterReason.REJECTED, job.error)
    elif isinstance(exc, Retry):
        job.error = str(exc.reason)[:MAX_ERROR_LENGTH] or "the handler asked for a retry"
        job.settlement = failed(job, exc.delay)
    else:  # a handler that cancelled itself, or let a cancelled future's error through, is among these
        job.error = describe_error(exc)
        # What it raises because the worker leaves is no failure of its own.
        job.settlement = job.delivery.release() if job.cancel_reason is CancelReason.DRAIN else failed(job)


def failed(job: Job, delay: float | None = None) -> Settlement:
    """Return the settlement of a failed attempt: another one after `delay` seconds, or by its policy, or none."""
    attempt = job.delivery.attempt
    if not job.retry.allows_another(attempt):
        return job.delivery.dead_letter(DeadLetterReason.EXHAUSTED, job.error)
    return job.delivery.retry(job.retry.delay_after(attempt) if delay is None else delay, job.error)


def _timed_out(job: Job) -> Settlement:
    job.error = f"TimeoutError: handler {job.handler.name!r} ran over its timeout of {job.handler.timeout:g} s"
    return failed(job)


async def _result_of(future: Future[Any]) -> Any:
    """Wait for what a worker thread does.

    A thread can't be stopped, and its message must not be tried again while it works on: a cancellation waits for it.
    One that waits for a free thread has not started and can be called off.
    """
    waiter = asyncio.wrap_future(future)
    cancelled: asyncio.CancelledError | None = None
    while not waiter.done():
        try:
            await asyncio.wait([waiter])
        except asyncio.CancelledError as exc:
            cancelled = exc
            if future.cancel():
                break
    if future.cancelled():
        raise cancelled or asyncio.CancelledError
    return waiter.result()
