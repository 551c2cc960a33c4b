"""ExecutorBench: an executor on the test's loop, and handlers that wait to be let go."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from qbridge import Action
from qbridge.execution import Executor, Job
from tests.support.jobs import make_job, no_send
from tests.support.waiting import Latch, Watch

__all__ = ["ACK", "RELEASE", "ExecutorBench", "blocking", "coroutine", "outcome", "plain", "stubborn", "waiting"]

#: The outcome of a job that is done, and of one that was released.
ACK = (Action.ACK, 0.0, "", "")
RELEASE = (Action.RELEASE, 0.0, "", "")


class ExecutorBench:
    """An executor on the test's loop, and the jobs that have ended on it."""

    def __init__(self) -> None:
        self.ended: list[Job] = []
        self.watch = Watch()
        self.executor = Executor(
            asyncio.get_running_loop(), name="loop-0", worker_threads=2, send=no_send, on_end=self._on_end
        )

    def _on_end(self, job: Job) -> None:
        self.ended.append(job)
        self.watch.changed()

    async def until_ended(self, *jobs: Job) -> None:
        """Wait until these jobs have ended."""
        await self.watch.until(lambda: set(jobs) <= set(self.ended))

    async def run(self, function: Callable[..., Any], *args: Any, **settings: Any) -> Job:
        """Run one job to its end."""
        job = make_job(function, *args, **settings)
        self.executor.start([job])
        await self.until_ended(job)
        return job

    async def start(self, function: Callable[..., Any], *latches: Latch, **settings: Any) -> Job:
        """Start one job and wait until its handler runs; it gets the latch by which it says so before the others."""
        running = Latch()
        job = make_job(functools.partial(function, running, *latches), **settings)
        self.executor.start([job])
        await running.wait()
        return job


def outcome(job: Job) -> tuple[Action, float, str, str]:
    """Return how a job was settled: action, delay, reason and the first line of the error."""
    assert job.settlement is not None
    settlement = job.settlement
    return settlement.action, settlement.delay, settlement.reason, settlement.error.partition("\n")[0]


async def waiting(running: Latch) -> None:
    """Say that it runs, and wait until it is cancelled."""
    running.set()
    await asyncio.get_running_loop().create_future()


async def stubborn(running: Latch, opened: Latch) -> None:
    """Say that it runs, and swallow every cancellation until it is let go."""
    running.set()
    while not opened.is_set:
        try:
            await opened.wait()
        except asyncio.CancelledError:
            continue


def blocking(running: Latch, opened: Latch) -> None:
    """Say that it runs, and hold its thread until it is let go."""
    running.set()
    opened.block()


async def coroutine(value: int) -> int:
    """Return something, which is nobody's business."""
    return value


def plain(value: int) -> int:
    """Return something, which is nobody's business."""
    return value
