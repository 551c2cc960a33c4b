"""The handlers in arq, its worker's settings, and how tasks are sent."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import uvloop
from arq import ArqRedis, Retry, create_pool
from arq.connections import RedisSettings

from benchmarks.harness import recorder

# arq takes the loop of the policy.
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

REDIS = RedisSettings.from_dsn(os.environ["BENCH_URL"])
REDIS.conn_timeout = 10

# Its own configuration logs each job.
LOGGING = {"version": 1, "disable_existing_loggers": False}


async def noop(_context: dict[str, Any], number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


async def io(_context: dict[str, Any], number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    await asyncio.sleep(0.05)
    recorder.ran(number)


async def payload(_context: dict[str, Any], number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


async def flaky(_context: dict[str, Any], number: int) -> None:
    """Fail at the first attempt of one task in ten, with what arq retries: it gives up on other exceptions."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise Retry
    recorder.ran(number)


async def stamp(_context: dict[str, Any], number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


class WorkerSettings:
    """What the command `arq` reads."""

    functions = (noop, io, payload, flaky, stamp)
    redis_settings = REDIS
    max_jobs = int(os.environ["BENCH_CONCURRENCY"])
    keep_result = 0
    poll_delay = 0.001


class ArqSender:
    """Sends through a pool of connections, a hundred at once: each takes a connection of its own."""

    def __init__(self) -> None:
        self._pool: ArqRedis
        self._turns = asyncio.Semaphore(100)

    async def open(self) -> None:
        """Connect."""
        self._pool = await create_pool(REDIS)

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        async with self._turns:
            await self._pool.enqueue_job(task, *arguments)

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.aclose()


def open_sender() -> ArqSender:
    """Return what sends tasks."""
    return ArqSender()
