"""The handlers in repid, the documented runner, and how tasks are sent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from repid import RedisServer, Repid, Router

from benchmarks.harness import recorder

CHANNEL = "bench"
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])

app = Repid(title="bench", version="1.0.0")
app.servers.register_server(
    "default",
    # Without a claim interval what a dead worker held never comes back.
    RedisServer(os.environ["BENCH_URL"], batch_size=100, claim_interval=30.0),
    is_default=True,
)
# Renewals cost a task per message; entries are claimed after a minute, which no handler here takes.
router = Router(channel=CHANNEL, keep_alive=False)
NAMES = {
    "noop": ("number",),
    "io": ("number",),
    "payload": ("number", "text"),
    "flaky": ("number",),
    "stamp": ("number", "sent"),
    "crunch": ("number", "seconds"),
}


@router.actor
async def noop(number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


@router.actor
async def io(number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    await asyncio.sleep(0.05)
    recorder.ran(number)


@router.actor
async def payload(number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


# `reject` puts a message back at once, at the end of the stream; the default, `nack`, makes a dead letter of it.
@router.actor(on_error="reject")
async def flaky(number: int) -> None:
    """Fail at the first attempt of one task in ten."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise RuntimeError("the first attempt fails")
    recorder.ran(number)


@router.actor
async def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


@router.actor
async def crunch(number: int, seconds: float) -> None:
    """Keep the processor busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1_000))
    recorder.ran(number)


app.include_router(router)


class RepidSender:
    """Sends through repid; it has no call for many."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Connect."""
        await self._stack.enter_async_context(app.servers.default.connection())

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        payload = dict(zip(NAMES[task], arguments, strict=True))
        await app.send_message_json(channel=CHANNEL, payload=payload, headers={"topic": task})

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()


def open_sender() -> RepidSender:
    """Return what sends tasks."""
    return RepidSender()


async def run() -> None:
    """Run a worker until SIGTERM."""
    async with app.servers.default.connection():
        await app.run_worker(tasks_limit=CONCURRENCY, register_signals=[signal.SIGTERM, signal.SIGINT])


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    uvloop.run(run())
