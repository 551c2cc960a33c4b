"""The handlers in taskiq, and how tasks are sent."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from taskiq import AsyncBroker, SimpleRetryMiddleware
from taskiq.serializers import ORJSONSerializer

from benchmarks.harness import recorder


def new_broker() -> AsyncBroker:
    """Return the broker of the variant that the environment names."""
    url, variant = os.environ["BENCH_URL"], os.environ["BENCH_VARIANT"]
    if variant == "taskiq-rabbitmq":
        from benchmarks.systems.taskiq.rabbitmq_broker import new_rabbitmq_broker

        return new_rabbitmq_broker(url)
    from taskiq_redis import ListQueueBroker, RedisStreamBroker

    # Its pool waits for a connection, where an unbounded one would open a thousand.
    kind = RedisStreamBroker if variant == "taskiq-stream" else ListQueueBroker
    return kind(url, queue_name="bench", max_connection_pool_size=100)


broker = new_broker().with_serializer(ORJSONSerializer()).with_middlewares(SimpleRetryMiddleware())


@broker.task(task_name="noop")
async def noop(number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


@broker.task(task_name="io")
async def io(number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    await asyncio.sleep(0.05)
    recorder.ran(number)


@broker.task(task_name="payload")
async def payload(number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


# The middleware sends a failed task again at once.
@broker.task(task_name="flaky", retry_on_error=True, max_retries=5)
async def flaky(number: int) -> None:
    """Fail at the first attempt of one task in ten."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise RuntimeError("the first attempt fails")
    recorder.ran(number)


@broker.task(task_name="stamp")
async def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


@broker.task(task_name="crunch")
async def crunch(number: int, seconds: float) -> None:
    """Keep the processor busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1_000))
    recorder.ran(number)


TASKS: dict[str, Any] = {task.task_name: task for task in (noop, io, payload, flaky, stamp, crunch)}


class TaskiqSender:
    """Sends through the broker; taskiq has no call for many."""

    async def open(self) -> None:
        """Connect, and make what is missing on the broker."""
        await broker.startup()

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        await TASKS[task].kiq(*arguments)

    async def close(self) -> None:
        """Disconnect."""
        await broker.shutdown()


def open_sender() -> TaskiqSender:
    """Return what sends tasks."""
    return TaskiqSender()
