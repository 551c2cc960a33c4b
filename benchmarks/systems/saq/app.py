"""The handlers in SAQ, its worker's settings, and how tasks are sent."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import uvloop
from saq import Queue
from saq.types import SettingsDict

from benchmarks.harness import recorder

# SAQ takes the loop of the policy.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

#: Names of the handlers' arguments, which SAQ wants.
NAMES = {
    "noop": ("number",),
    "io": ("number",),
    "payload": ("number", "text"),
    "flaky": ("number",),
    "stamp": ("number", "sent"),
}


async def noop(_context: dict[str, Any], *, number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


async def io(_context: dict[str, Any], *, number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    await asyncio.sleep(0.05)
    recorder.ran(number)


async def payload(_context: dict[str, Any], *, number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


async def flaky(_context: dict[str, Any], *, number: int) -> None:
    """Fail at the first attempt of one task in ten."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise RuntimeError("the first attempt fails")
    recorder.ran(number)


async def stamp(_context: dict[str, Any], *, number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


def new_queue() -> Queue:
    """Return the queue."""
    return Queue.from_url(os.environ["BENCH_URL"], max_concurrent_ops=100)


def settings() -> SettingsDict[Any]:
    """Return what the command `saq` wants."""
    return {
        "queue": new_queue(),
        "functions": [noop, io, payload, flaky, stamp],
        "concurrency": int(os.environ["BENCH_CONCURRENCY"]),
    }


class SaqSender:
    """Sends through a queue, with at most 100 commands at once."""

    def __init__(self) -> None:
        self._queue = new_queue()

    async def open(self) -> None:
        """Connect."""
        await self._queue.connect()

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task: without a result, and with an attempt left if a worker dies."""
        keywords = dict(zip(NAMES[task], arguments, strict=True))
        await self._queue.enqueue(task, ttl=-1, retries=3, **keywords)

    async def close(self) -> None:
        """Disconnect."""
        await self._queue.disconnect()


def open_sender() -> SaqSender:
    """Return what sends tasks."""
    return SaqSender()
