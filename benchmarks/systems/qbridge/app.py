"""The handlers in qbridge, and how tasks are sent."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.harness import recorder
from benchmarks.systems.qbridge import CLASSIC, queue_keys
from qbridge import HandlerRegistry, QBridge, RetryPolicy

registry = HandlerRegistry()


@registry.task
async def noop(number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


@registry.task
async def io(number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    await asyncio.sleep(0.05)
    recorder.ran(number)


@registry.task
async def payload(number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


@registry.task(retry=RetryPolicy(backoff="constant", base=0, jitter=False))
async def flaky(number: int) -> None:
    """Fail at the first attempt of one task in ten."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise RuntimeError("the first attempt fails")
    recorder.ran(number)


@registry.task
async def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


@registry.task
async def crunch(number: int, seconds: float) -> None:
    """Keep the processor busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1_000))
    recorder.ran(number)


def queue_of(task: str) -> str:
    """Return the queue of a task: what computes has a loop thread of its own."""
    return "crunching" if task == "crunch" else "default"


class BridgeSender:
    """Sends through a `QBridge` that doesn't run; `crunch` goes to a queue of its own."""

    def __init__(self) -> None:
        is_classic = os.environ["BENCH_VARIANT"].endswith(CLASSIC)
        broker, url = CLASSIC if is_classic else os.environ["BENCH_BROKER"], os.environ["BENCH_URL"]
        self._bridge = QBridge(
            queues={
                "default": queue_keys(broker, url, "bench"),
                "crunching": queue_keys(broker, url, "crunching"),
            }
        )
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Open the bridge; it connects with its first send."""
        await self._stack.enter_async_context(self._bridge)

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        await self._bridge.send(task, *arguments, queue=queue_of(task))

    async def send_many(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        """Send one task for each of these arguments."""
        await self._bridge.send_each(task, calls, queue=queue_of(task))

    async def close(self) -> None:
        """Close the bridge."""
        await self._stack.aclose()


def open_sender() -> BridgeSender:
    """Return what sends tasks."""
    return BridgeSender()
