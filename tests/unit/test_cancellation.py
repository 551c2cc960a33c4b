"""Executor: time limits, drains and lost leases, and what they leave of a message."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import AsyncIterator

import pytest

from qbridge import Action, Reject
from qbridge.execution import CancelReason
from tests.support.executor_bench import (
    ACK,
    RELEASE,
    ExecutorBench,
    blocking,
    coroutine,
    outcome,
    plain,
    stubborn,
    waiting,
)
from tests.support.jobs import make_job
from tests.support.waiting import Latch, poll


@pytest.fixture
async def bench() -> AsyncIterator[ExecutorBench]:
    """An executor with two worker threads."""
    bench = ExecutorBench()
    yield bench
    bench.executor.close(5.0)


async def test_a_timeout_fails_the_attempt(bench: ExecutorBench) -> None:
    """A coroutine that takes too long is cancelled, and tried again like after any other failure."""
    job = await bench.run(functools.partial(waiting, Latch()), timeout=0.05)

    assert (Action.RETRY, 0.5, "", "TimeoutError: handler 'handler' ran over its timeout of 0.05 s") == outcome(job)
    assert job.ended_at - job.started_at >= 0.05


async def test_a_timeout_in_the_last_attempt_exhausts(bench: ExecutorBench) -> None:
    """A message that always takes too long ends as a dead letter."""
    job = await bench.run(functools.partial(waiting, Latch()), timeout=0.01, attempt=3)

    assert (
        Action.DEAD_LETTER,
        0.0,
        "exhausted",
        "TimeoutError: handler 'handler' ran over its timeout of 0.01 s",
    ) == outcome(job)


async def test_a_timeout_that_is_swallowed_has_failed_all_the_same(bench: ExecutorBench) -> None:
    """A handler that catches its cancellation and returns has not kept its limit."""
    cancelled = Latch()

    async def handler() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.set()

    job = await bench.run(handler, timeout=0.01)

    assert cancelled.is_set
    assert (Action.RETRY, 0.5, "", "TimeoutError: handler 'handler' ran over its timeout of 0.01 s") == outcome(job)


async def test_a_plain_function_over_its_time_fails_when_it_ends(bench: ExecutorBench) -> None:
    """A thread can't be stopped; its message is not tried again while it works on."""
    opened = Latch()
    job = await bench.start(blocking, opened, timeout=0.01)
    await poll(lambda: job.cancel_reason)
    still_running = job in bench.executor.running

    opened.set()
    await bench.until_ended(job)

    assert still_running
    assert (Action.RETRY, 0.5, "", "TimeoutError: handler 'handler' ran over its timeout of 0.01 s") == outcome(job)


async def test_waiting_for_a_thread_is_no_part_of_the_time_limit(bench: ExecutorBench) -> None:
    """A plain function has its whole time once it has a thread, however long it waited for one."""
    opened = Latch()
    busy = [await bench.start(blocking, opened) for _ in range(2)]
    late = make_job(plain, 1, timeout=0.05)
    bench.executor.start([late])
    await asyncio.sleep(0.1)  # longer than its limit

    opened.set()
    await bench.until_ended(late, *busy)

    assert ACK == outcome(late)


async def test_a_task_in_time_is_not_cancelled_later(bench: ExecutorBench) -> None:
    """The limit of a handler that ended in time does nothing when it is over."""
    job = await bench.run(coroutine, 1, timeout=0.01)
    await asyncio.sleep(0.03)  # longer than its limit

    assert (ACK, None) == (outcome(job), job.cancel_reason)


async def test_nothing_is_kept_of_a_task_that_has_ended(bench: ExecutorBench) -> None:
    """Its message may be freed long before its time limit is over."""
    gone = weakref.ref((await bench.run(coroutine, 1, timeout=3600.0)).message)

    bench.ended.clear()
    gc.collect()

    assert gone() is None


async def test_the_first_reason_for_a_cancellation_counts(bench: ExecutorBench) -> None:
    """A handler that was over its time before the worker left has failed."""
    opened = Latch()
    job = await bench.start(stubborn, opened, timeout=0.01)
    await poll(lambda: job.cancel_reason)

    bench.executor.cancel_all(CancelReason.DRAIN)
    opened.set()
    await bench.until_ended(job)

    assert (Action.RETRY, 0.5, "", "TimeoutError: handler 'handler' ran over its timeout of 0.01 s") == outcome(job)


@pytest.mark.parametrize("reason", [CancelReason.DRAIN, CancelReason.LEASE_LOST])
async def test_a_job_cancelled_before_its_first_step_never_runs(bench: ExecutorBench, reason: CancelReason) -> None:
    """It ends all the same: nothing waits for it for ever."""
    ran = Latch()
    job = make_job(functools.partial(waiting, ran))
    bench.executor.start([job])

    bench.executor.cancel(job, reason)
    await bench.until_ended(job)

    assert not ran.is_set
    assert (RELEASE if reason is CancelReason.DRAIN else None) == (job.settlement and outcome(job))


async def test_a_job_cancelled_on_its_way_here_never_runs(bench: ExecutorBench) -> None:
    """A cancellation that overtakes its job is not forgotten."""
    ran = Latch()
    job = make_job(functools.partial(waiting, ran))

    bench.executor.cancel(job, CancelReason.LEASE_LOST)
    bench.executor.start([job])
    await bench.until_ended(job)

    assert (False, None) == (ran.is_set, job.settlement)


async def test_a_drain_releases_what_it_cancels(bench: ExecutorBench) -> None:
    """A handler cut short because the worker leaves has not been tried; its attempt doesn't count."""
    jobs = [await bench.start(waiting, attempt=attempt) for attempt in (1, 3)]

    bench.executor.cancel_all(CancelReason.DRAIN)
    await bench.until_ended(*jobs)

    assert [RELEASE, RELEASE] == [outcome(job) for job in jobs]


async def test_an_error_in_answer_to_a_drain_is_no_failure(bench: ExecutorBench) -> None:
    """A handler that turns its cancellation into another error is released like one that lets it through."""

    async def handler(running: Latch) -> None:
        try:
            await waiting(running)
        except asyncio.CancelledError as exc:
            raise ConnectionError("cut off") from exc

    job = await bench.start(handler, attempt=3)

    bench.executor.cancel_all(CancelReason.DRAIN)
    await bench.until_ended(job)

    assert RELEASE == outcome(job)


async def test_a_handler_that_finishes_in_spite_of_a_drain_is_done(bench: ExecutorBench) -> None:
    """Work that was completed after the cancellation is not done again."""
    opened = Latch()
    job = await bench.start(stubborn, opened)

    bench.executor.cancel_all(CancelReason.DRAIN)
    opened.set()
    await bench.until_ended(job)

    assert ACK == outcome(job)


async def test_a_plain_function_that_waits_for_a_thread_is_released_by_a_drain(bench: ExecutorBench) -> None:
    """What has not begun is called off; what runs in a thread ends by itself, and is done."""
    opened = Latch()
    running = [await bench.start(blocking, opened) for _ in range(2)]
    ran = Latch()
    waiting_job = make_job(ran.set)
    bench.executor.start([waiting_job])
    await asyncio.sleep(0)  # its first step, which asks for a thread

    bench.executor.cancel_all(CancelReason.DRAIN)
    await bench.until_ended(waiting_job)
    opened.set()
    await bench.until_ended(*running)

    assert (RELEASE, False) == (outcome(waiting_job), ran.is_set)
    assert [ACK, ACK] == [outcome(job) for job in running]


@pytest.mark.parametrize("ending", [None, ValueError("late"), Reject("late")])
async def test_a_lost_lease_settles_nothing(bench: ExecutorBench, ending: Exception | None) -> None:
    """However a handler ends whose message is another worker's: nothing is settled here, not even its failure."""

    async def handler(running: Latch) -> None:
        try:
            await waiting(running)
        except asyncio.CancelledError:
            if ending is not None:
                raise ending from None

    job = await bench.start(handler)
    bench.executor.cancel(job, CancelReason.DRAIN)

    bench.executor.cancel(job, CancelReason.LEASE_LOST)
    await bench.until_ended(job)

    assert job.settlement is None


async def test_cancelling_what_has_ended_changes_nothing(bench: ExecutorBench) -> None:
    """A cancellation that comes too late finds nobody."""
    job = await bench.run(coroutine, 1)

    bench.executor.cancel(job, CancelReason.LEASE_LOST)

    assert (ACK, None) == (outcome(job), job.cancel_reason)
