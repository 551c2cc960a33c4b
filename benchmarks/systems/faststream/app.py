"""The handlers in FastStream, one queue each as its documentation has it, and how tasks are sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from faststream.redis import ListSub, RedisBroker, StreamSub
from redis.exceptions import ResponseError

from benchmarks.harness import recorder

URL = os.environ["BENCH_URL"]
VARIANT = os.environ["BENCH_VARIANT"]
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])

GROUP = "workers"

#: redis-py refuses a command when its pool has so many connections in use, 100 unless told otherwise: a hundred acks at
#: once need one each, beside those that wait for messages.
CONNECTIONS = CONCURRENCY + 50

#: So many sends of one process go out at once, for the same reason.
SENDS = 100

NAMES = {
    "payload": ("number", "text"),
    "stamp": ("number", "sent"),
}


async def noop(number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


async def io(number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    await asyncio.sleep(0.05)
    recorder.ran(number)


async def payload(number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


async def flaky(number: int) -> None:
    """Fail at the first attempt of one task in ten."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise RuntimeError("the first attempt fails")
    recorder.ran(number)


async def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


HANDLERS = {function.__name__: function for function in (noop, io, payload, flaky, stamp)}


def body(task: str, arguments: Sequence[Any]) -> Any:
    """Return what is published: a handler with one parameter takes the whole body."""
    return dict(zip(NAMES[task], arguments, strict=True)) if task in NAMES else arguments[0]


def rabbit_queue(task: str) -> RabbitQueue:
    """Return the queue of a task."""
    return RabbitQueue(task, queue_type=QueueType.QUORUM, durable=True)


def make_broker() -> RabbitBroker | RedisBroker:
    """Return the measured variant's broker with a subscriber for each handler."""
    if VARIANT == "faststream-rabbitmq":
        # A message runs as a task of its own as soon as it comes: what is prefetched is what runs at once.
        rabbit = RabbitBroker(URL, default_channel=Channel(prefetch_count=CONCURRENCY))
        for task, function in HANDLERS.items():
            rabbit.subscriber(rabbit_queue(task), ack_policy=AckPolicy.NACK_ON_ERROR)(function)
        return rabbit
    redis = RedisBroker(URL, max_connections=CONNECTIONS)
    for task, function in HANDLERS.items():
        if VARIANT == "faststream-list":
            redis.subscriber(list=ListSub(task), max_workers=CONCURRENCY)(function)
        else:
            stream = StreamSub(
                task, group=GROUP, consumer=f"worker-{os.getpid()}", max_records=CONCURRENCY, polling_interval=1000
            )
            redis.subscriber(stream=stream, max_workers=CONCURRENCY)(function)
    return redis


broker = make_broker()
app = FastStream(broker)


class RabbitSender:
    """Publishes persistent messages and waits for their confirms; there is no call for many."""

    async def open(self) -> None:
        """Connect, and declare what the worker may not have declared yet."""
        await broker.connect()
        for task in HANDLERS:
            await broker.declare_queue(rabbit_queue(task))

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        await broker.publish(body(task, arguments), queue=task, persist=True)

    async def close(self) -> None:
        """Disconnect."""
        await broker.stop()


class StreamSender:
    """Adds to streams; for many it has a pipeline."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(SENDS)

    async def open(self) -> None:
        """Connect, and make the group, without which a worker that starts later sees only what comes after it."""
        client = await broker.connect()
        for task in HANDLERS:
            try:
                await client.xgroup_create(task, GROUP, id="0", mkstream=True)
            except ResponseError as exc:
                if "BUSYGROUP" not in str(exc):
                    raise
        self._client = client

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        async with self._room:
            await broker.publish(body(task, arguments), stream=task)

    async def send_many(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        """Send one task for each of these arguments."""
        async with self._client.pipeline() as pipeline:
            for call in calls:
                await broker.publish(body(task, call), stream=task, pipeline=pipeline)
            await pipeline.execute()

    async def close(self) -> None:
        """Disconnect."""
        await broker.stop()


class ListSender:
    """Pushes to lists; for many it has one push."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(SENDS)

    async def open(self) -> None:
        """Connect."""
        await broker.connect()

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        async with self._room:
            await broker.publish(body(task, arguments), list=task)

    async def send_many(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        """Send one task for each of these arguments."""
        await broker.publish_batch(*(body(task, call) for call in calls), list=task)

    async def close(self) -> None:
        """Disconnect."""
        await broker.stop()


def open_sender() -> RabbitSender | StreamSender | ListSender:
    """Return what sends tasks."""
    return {"faststream-rabbitmq": RabbitSender, "faststream-stream": StreamSender, "faststream-list": ListSender}[
        VARIANT
    ]()
