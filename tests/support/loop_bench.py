"""LoopBench: loop threads for a test, and what they hand back."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from qbridge.execution import Job
from qbridge.loops import LoopImplementation, LoopThread
from tests.support.executor_bench import blocking
from tests.support.jobs import make_job, no_send
from tests.support.waiting import PATIENCE, Latch, Watch

__all__ = ["LoopBench", "hold"]


class LoopBench:
    """Makes loop threads, keeps what they hand back, and stops them when it is left."""

    def __init__(self) -> None:
        self.ended: list[Job] = []
        self.watch = Watch()
        self.threads: list[LoopThread] = []

    def make(self, *, concurrency: int = 2000, implementation: LoopImplementation = "asyncio") -> LoopThread:
        """Make a loop thread."""
        thread = LoopThread(
            f"loop-{len(self.threads)}",
            concurrency=concurrency,
            worker_threads=2,
            implementation=implementation,
            send=no_send,
            on_ended=self._on_ended,
        )
        self.threads.append(thread)
        return thread

    async def start(self, **settings: Any) -> LoopThread:
        """Make and start a loop thread."""
        thread = self.make(**settings)
        await thread.start()
        return thread

    async def until_ended(self, jobs: Sequence[Job]) -> None:
        """Wait until these jobs were handed back."""
        await self.watch.until(lambda: set(jobs) <= set(self.ended))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self.threads:
            await thread.stop(PATIENCE)

    def _on_ended(self, jobs: list[Job]) -> None:
        for job in jobs:
            job.thread.in_flight -= 1  # as the dispatcher does
        self.ended += jobs
        self.watch.changed()


async def hold(thread: LoopThread) -> tuple[Job, Latch]:
    """Block a loop thread with a handler; return its job, and the latch that lets it go."""
    running, opened = Latch(), Latch()

    async def handler() -> None:
        blocking(running, opened)

    job = make_job(handler)
    thread.submit([job])
    await running.wait()
    return job, opened
