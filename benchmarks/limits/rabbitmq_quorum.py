"""What RabbitMQ and pika can do with a quorum queue, in a loop that does nothing else.

Deliveries are acknowledged with `multiple`, a hundred by one frame, with so many prefetched that the next hundred are
there by then. Publishing keeps a window of messages whose confirms are awaited. Both do nothing with the bodies.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import pika
import uvloop
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.select_connection import SelectConnection

from benchmarks.harness.limits import Limit

LIMITS = (
    Limit(
        key="rabbitmq-consume-ack-100-select",
        broker="rabbitmq",
        title="consume and `multiple` ack per 100 with pika's SelectConnection, quorum queue",
    ),
    Limit(
        key="rabbitmq-consume-ack-100-asyncio",
        broker="rabbitmq",
        title="the same with pika's AsyncioConnection on uvloop",
    ),
    Limit(
        key="rabbitmq-publish-window-1000",
        broker="rabbitmq",
        title="publish with a window of 1,000 confirms, pika's SelectConnection, quorum queue",
        beside="enqueue_bulk",
    ),
)

TASKS = 40_000
PER_ACK = 100
PREFETCH = 300
WINDOW = 1_000
QUEUE = "limit"


class Loop:
    """A connection with one channel and a declared queue, on which one job runs until it calls `stop`.

    Args:
        kind: pika's class of the connection.
        begin: Called with this object when the queue is there.
    """

    def __init__(self, kind: Callable[..., Any], begin: Callable[[Loop], None]) -> None:
        self._begin = begin
        self._failure: BaseException | None = None
        self._is_done = False
        self.channel: Any = None
        self._connection = kind(
            pika.URLParameters(os.environ["BENCH_URL"]),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._declare),
            on_open_error_callback=lambda _, reason: self._fail(reason),
            on_close_callback=self._closed,
        )

    def run(self) -> None:
        """Run until the job has stopped and the connection is closed.

        Raises:
            RuntimeError: The connection or the channel was lost.
        """
        if isinstance(self._connection, SelectConnection):
            self._connection.ioloop.start()
        else:
            self._connection.ioloop.run_forever()
        if self._failure is not None:
            raise RuntimeError(f"the connection ended: {self._failure!r}")

    def stop(self) -> None:
        """Close the connection, which ends `run`."""
        self._is_done = True
        self._connection.close()

    def _declare(self, channel: Any) -> None:
        self.channel = channel
        channel.add_on_close_callback(lambda _, reason: None if self._is_done else self._fail(reason))
        channel.queue_declare(
            QUEUE, durable=True, arguments={"x-queue-type": "quorum"}, callback=lambda _: self._begin(self)
        )

    def _closed(self, _: Any, reason: BaseException) -> None:
        if not self._is_done:
            self._failure = self._failure or reason
        self._connection.ioloop.stop()

    def _fail(self, reason: BaseException) -> None:
        self._failure = self._failure or reason
        self._connection.ioloop.stop()


class Publishing:
    """Publishes all tasks, and stops when each is confirmed."""

    def __init__(self) -> None:
        told = {"v": 1, "id": "0" * 32, "task": "noop", "args": [1], "kwargs": {}, "headers": {}}
        self._body = json.dumps({**told, "enqueued_at": time.time()}, separators=(",", ":")).encode()
        self._properties = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        self._published = 0
        self._open: dict[int, None] = {}  # tags that wait for their confirm, in order; they count from 1
        self._began = 0.0
        self.seconds = 0.0

    def begin(self, loop: Loop) -> None:
        """Begin; called by the loop."""
        self._loop = loop
        loop.channel.confirm_delivery(self._on_confirm, callback=self._on_ready)

    def _on_ready(self, _: Any) -> None:
        self._began = time.perf_counter()
        self._fill()

    def _on_confirm(self, frame: Any) -> None:
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            raise RuntimeError("the broker refused a message")  # noqa: TRY004  # not about a type of ours
        tag = frame.method.delivery_tag
        confirmed = list(takewhile(lambda opened: opened <= tag, self._open)) if frame.method.multiple else [tag]
        for each in confirmed:
            del self._open[each]
        if self._published < TASKS:
            self._fill()
        elif not self._open:
            self.seconds = time.perf_counter() - self._began
            self._loop.stop()

    def _fill(self) -> None:
        publish = self._loop.channel.basic_publish
        while self._published < TASKS and len(self._open) < WINDOW:
            publish("", QUEUE, self._body, self._properties, mandatory=True)
            self._published += 1
            self._open[self._published] = None


class Consuming:
    """Consumes all tasks and acknowledges them, and stops when the broker has seen the last acknowledgement."""

    def __init__(self) -> None:
        self._received = 0
        self._began = 0.0
        self.seconds = 0.0
        self.left = 0

    def begin(self, loop: Loop) -> None:
        """Begin; called by the loop."""
        self._loop = loop
        loop.channel.basic_qos(prefetch_count=PREFETCH, callback=self._on_ready)

    def _on_ready(self, _: Any) -> None:
        self._began = time.perf_counter()
        self._loop.channel.basic_consume(QUEUE, self._on_message)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._received += 1
        if self._received % PER_ACK == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if self._received == TASKS:
            # Acks have no confirm; a reply on the same channel comes after them.
            channel.queue_declare(QUEUE, passive=True, callback=self._on_end)

    def _on_end(self, frame: Any) -> None:
        self.seconds = time.perf_counter() - self._began
        self.left = frame.method.message_count
        self._loop.stop()


def main(key: str) -> None:
    """Measure one limit."""
    publishing = Publishing()
    Loop(SelectConnection, publishing.begin).run()
    seconds = publishing.seconds
    if key != "rabbitmq-publish-window-1000":
        consuming = Consuming()
        kind: Callable[..., Any] = SelectConnection
        if key == "rabbitmq-consume-ack-100-asyncio":
            asyncio.set_event_loop(uvloop.new_event_loop())
            kind = AsyncioConnection
        Loop(kind, consuming.begin).run()
        if consuming.left:
            raise RuntimeError(f"{consuming.left} of {TASKS} tasks are left")
        seconds = consuming.seconds
    print(json.dumps({"tasks": TASKS, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
