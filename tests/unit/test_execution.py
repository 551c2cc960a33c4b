"""Executor: what becomes of a message, however its handler ends by itself."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from qbridge import MAX_ERROR_LENGTH, Action, Reject, Retry, TaskContext
from qbridge.execution import CancelReason
from tests.support.executor_bench import ACK, ExecutorBench, coroutine, outcome, plain, waiting
from tests.support.jobs import make_job

SECRET: contextvars.ContextVar[str] = contextvars.ContextVar("SECRET", default="none")


@pytest.fixture
async def bench() -> AsyncIterator[ExecutorBench]:
    """An executor with two worker threads."""
    bench = ExecutorBench()
    yield bench
    bench.executor.close(5.0)


def undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a coroutine function in a plain one, as decorators do that were written for functions."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@pytest.mark.parametrize("function", [coroutine, plain, functools.partial(plain), undecorated(coroutine)])
async def test_a_handler_that_returns_acknowledges(bench: ExecutorBench, function: Callable[..., Any]) -> None:
    """A coroutine function or a plain one: what returns is done, and has left the executor."""
    job = await bench.run(function, 1)

    assert ACK == outcome(job)
    assert {} == bench.executor.running
    assert 0 < job.started_at <= job.ended_at
    assert job.task is None


async def test_a_coroutine_behind_a_plain_decorator_is_run(bench: ExecutorBench) -> None:
    """What a plain wrapper returns is awaited on the loop, and not thrown away as done."""
    threads: list[str] = []

    async def handler() -> None:
        await asyncio.sleep(0)
        threads.append(threading.current_thread().name)
        raise ValueError("ran")

    job = await bench.run(undecorated(handler))

    assert [threading.current_thread().name] == threads
    assert (Action.RETRY, 0.5, "", "ValueError: ran") == outcome(job)


def failing(value: BaseException) -> Callable[[], Any]:
    """Return a coroutine function that raises this."""

    async def handler() -> None:
        raise value

    return handler


def failing_in_thread(value: BaseException) -> Callable[[], Any]:
    """Return a plain function that raises this."""

    def handler() -> None:
        raise value

    return handler


class BareRetry(Retry):
    """A signal of one's own that doesn't call our `__init__`."""

    def __init__(self) -> None:
        pass


class BareReject(Reject):
    """A signal of one's own that doesn't call our `__init__`."""

    def __init__(self) -> None:
        pass


class UnprintableError(Exception):
    """An error whose text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("kind", [failing, failing_in_thread])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no such order"), (Action.RETRY, 0.5, "", "ValueError: no such order")),
        (SystemExit(3), (Action.RETRY, 0.5, "", "SystemExit: 3")),
        (KeyboardInterrupt(), (Action.RETRY, 0.5, "", "KeyboardInterrupt")),
        (GeneratorExit(), (Action.RETRY, 0.5, "", "GeneratorExit")),
        (BaseException("bare"), (Action.RETRY, 0.5, "", "BaseException: bare")),
        (asyncio.CancelledError("mine"), (Action.RETRY, 0.5, "", "asyncio.exceptions.CancelledError: mine")),
        (TimeoutError(), (Action.RETRY, 0.5, "", "TimeoutError")),
        (UnprintableError(), (Action.RETRY, 0.5, "", f"{__name__}.UnprintableError: <exception str() failed>")),
        (Retry(), (Action.RETRY, 0.5, "", "the handler asked for a retry")),
        (Retry("busy", delay=7), (Action.RETRY, 7, "", "busy")),
        (Retry(ValueError("busy")), (Action.RETRY, 0.5, "", "busy")),  # type: ignore[arg-type]  # as users write it
        (BareRetry(), (Action.RETRY, 0.5, "", "the handler asked for a retry")),
        (Reject(), (Action.DEAD_LETTER, 0.0, "rejected", "rejected by the handler")),
        (Reject("too old"), (Action.DEAD_LETTER, 0.0, "rejected", "too old")),
        (Reject(None), (Action.DEAD_LETTER, 0.0, "rejected", "None")),  # type: ignore[arg-type]  # as users write it
        (BareReject(), (Action.DEAD_LETTER, 0.0, "rejected", "rejected by the handler")),
    ],
    ids=repr,
)
async def test_what_a_handler_raises_decides(
    bench: ExecutorBench, kind: Callable[..., Any], error: BaseException, expected: tuple[Action, float, str, str]
) -> None:
    """An error is a failed attempt, whatever it is; the signals do as they say. The executor goes on in each case."""
    job = await bench.run(kind(error))

    assert expected == outcome(job)
    assert ACK == outcome(await bench.run(coroutine, 1))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (failing, "RuntimeError: coroutine raised StopIteration"),
        (failing_in_thread, "RuntimeError: handler raised StopIteration"),
    ],
)
async def test_a_stop_iteration_is_a_failure_too(bench: ExecutorBench, kind: Callable[..., Any], text: str) -> None:
    """The one error that no future can hold fails its attempt instead of hanging it for ever."""
    assert (Action.RETRY, 0.5, "", text) == outcome(await bench.run(kind(StopIteration())))


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (1, (Action.RETRY, 0.5, "", "ValueError: no")),
        (2, (Action.RETRY, 0.5, "", "ValueError: no")),
        (3, (Action.DEAD_LETTER, 0.0, "exhausted", "ValueError: no")),
        (4, (Action.DEAD_LETTER, 0.0, "exhausted", "ValueError: no")),
    ],
)
async def test_the_last_attempt_is_not_followed_by_another(
    bench: ExecutorBench, attempt: int, expected: tuple[Action, float, str, str]
) -> None:
    """Failures are retried with the policy's delay until its attempts are used up."""
    assert expected == outcome(await bench.run(failing(ValueError("no")), attempt=attempt))


async def test_a_retry_counts_as_an_attempt(bench: ExecutorBench) -> None:
    """A handler that asks for a retry in its last attempt gets none."""
    job = await bench.run(failing(Retry("busy", delay=7)), attempt=3)

    assert (Action.DEAD_LETTER, 0.0, "exhausted", "busy") == outcome(job)


async def test_arguments_that_do_not_fit_never_reach_the_handler(bench: ExecutorBench) -> None:
    """They make a dead letter at the first attempt, with what pydantic says."""
    ran: list[Any] = []

    async def handler(value: int) -> None:
        ran.append(value)

    job = await bench.run(handler, "x")

    assert (
        Action.DEAD_LETTER,
        0.0,
        "invalid",
        "arguments of task 'handler' don't fit: value: Input should be a valid integer, unable to parse string as an "
        "integer",
    ) == outcome(job)
    assert [] == ran


async def test_an_error_keeps_its_traceback_within_bounds(bench: ExecutorBench) -> None:
    """The history gets type, text and the end of the traceback, and never more than the contract allows."""
    short = await bench.run(failing(ValueError("no")))
    long = await bench.run(failing(ValueError("x" * 10_000)))
    asked = await bench.run(failing(Retry("y" * 10_000)))

    assert short.settlement is not None
    assert short.settlement.error.startswith("ValueError: no\n")
    assert short.settlement.error.rstrip().endswith("raise value")
    assert [MAX_ERROR_LENGTH // 2 < len(long.error) <= MAX_ERROR_LENGTH, len(asked.error)] == [True, MAX_ERROR_LENGTH]


async def test_jobs_start_in_the_order_in_which_they_came(bench: ExecutorBench) -> None:
    """Within a batch and from batch to batch, the first step of each handler keeps the order."""
    order: list[int] = []

    async def handler(number: int) -> None:
        order.append(number)
        await asyncio.sleep(0)

    jobs = [make_job(handler, number) for number in range(20)]
    bench.executor.start(jobs[:15])
    bench.executor.start(jobs[15:])
    await bench.until_ended(*jobs)

    assert list(range(20)) == order


async def test_each_task_has_context_variables_of_its_own(bench: ExecutorBench) -> None:
    """A handler sees neither what the worker nor what another handler has set."""
    SECRET.set("of the worker")
    seen: list[str] = []

    async def handler() -> None:
        seen.append(SECRET.get())
        SECRET.set("of the first handler")

    def handler_in_thread() -> None:
        seen.append(SECRET.get())
        SECRET.set("of a thread")

    for function in (handler, handler, handler_in_thread, handler_in_thread):
        await bench.run(function)

    assert ["none"] * 4 == seen
    assert "of the worker" == SECRET.get()


async def test_a_plain_function_runs_off_the_loop(bench: ExecutorBench) -> None:
    """It may block: it has a worker thread, named after its loop thread."""
    names: list[str] = []

    await bench.run(lambda: names.append(threading.current_thread().name))

    assert ["loop-0-worker_0"] == names


async def test_a_context_tells_the_handler_of_its_message(bench: ExecutorBench) -> None:
    """Id, queue, attempts, headers and loop thread reach the handler that asks for them."""
    contexts: list[TaskContext] = []

    async def handler(context: TaskContext) -> None:
        contexts.append(context)

    job = await bench.run(handler, attempt=2)

    [context] = contexts
    assert (job.message.id, "handler", "q", 2, 3, {"h": "x"}, job.message.enqueued_at, "loop-0") == (
        context.id,
        context.task,
        context.queue,
        context.attempt,
        context.max_attempts,
        context.headers,
        context.enqueued_at,
        context.loop_thread,
    )


async def test_waiting_tasks_are_not_collected(bench: ExecutorBench) -> None:
    """A handler that waits for something only it refers to is kept alive by the executor."""
    jobs = [await bench.start(waiting) for _ in range(20)]

    gc.collect()
    await asyncio.sleep(0)

    assert jobs == list(bench.executor.running)
    bench.executor.cancel_all(CancelReason.DRAIN)
    await bench.until_ended(*jobs)
