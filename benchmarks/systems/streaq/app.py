"""The handlers in streaq, its worker, and how tasks are sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from streaq import StreaqRetry, Worker

from benchmarks.harness import recorder

worker: Worker[None] = Worker(
    redis_url=os.environ["BENCH_URL"],
    concurrency=int(os.environ["BENCH_CONCURRENCY"]),
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(silent=True, ttl=0)
async def noop(number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


@worker.task(silent=True, ttl=0)
async def io(number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    await asyncio.sleep(0.05)
    recorder.ran(number)


@worker.task(silent=True, ttl=0)
async def payload(number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


@worker.task(silent=True, ttl=0)
async def flaky(number: int) -> None:
    """Fail at the first attempt of one task in ten, with what streaq retries: it gives up on other exceptions."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise StreaqRetry("the first attempt fails", delay=0)
    recorder.ran(number)


@worker.task(silent=True, ttl=0)
async def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


TASKS: dict[str, Any] = {"noop": noop, "io": io, "payload": payload, "flaky": flaky, "stamp": stamp}


class StreaqSender:
    """Sends through a worker that doesn't run."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Connect."""
        await self._stack.enter_async_context(worker)

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        await TASKS[task].enqueue(*arguments)

    async def send_many(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        """Send one task for each of these arguments."""
        await worker.enqueue_many([TASKS[task].enqueue(*arguments) for arguments in calls])

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()


def open_sender() -> StreaqSender:
    """Return what sends tasks."""
    return StreaqSender()
