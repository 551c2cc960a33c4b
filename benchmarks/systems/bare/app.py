"""A worker and a sender of bare clients: the number of a task and the moment of its send, in one text, with spaces."""

from __future__ import annotations

import os
import socket
from typing import Any
from urllib.parse import urlsplit

import hiredis
import pika
from pika.adapters.select_connection import SelectConnection

from benchmarks.harness import recorder

QUEUE = "bench"
IS_CLASSIC = os.environ.get("BENCH_VARIANT", "").endswith("classic")
ARGUMENTS = {"x-queue-type": "classic" if IS_CLASSIC else "quorum"}
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def run(text: bytes) -> None:
    """Run a task: note how long ago it was sent, if it tells."""
    number, *sent = map(int, text.split())
    if sent:
        recorder.latency(number, *sent)
    else:
        recorder.ran(number)


def written(*arguments: int) -> str:
    """Return the text of a task, which `run` reads."""
    return " ".join(map(str, arguments))


class RedisConnection:
    """A blocking connection that runs one command at a time."""

    def __init__(self) -> None:
        address = urlsplit(os.environ["BENCH_URL"])
        self._socket = socket.create_connection((address.hostname or "127.0.0.1", address.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader(notEnoughData=self)

    def run(self, *command: str) -> Any:
        """Run a command; return its reply.

        Raises:
            EOFError: The server is gone.
        """
        self._socket.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # as in its stub
        while (reply := self._reader.gets()) is self:
            received = self._socket.recv(65536)
            if not received:
                raise EOFError("the server has closed the connection")
            self._reader.feed(received)
        return reply

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


class RedisSender:
    """Pushes to a list."""

    def open(self) -> None:
        """Connect."""
        self._connection = RedisConnection()

    def send(self, task: str, *arguments: int) -> None:
        """Send one task."""
        self._connection.run("LPUSH", QUEUE, written(*arguments))

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


class RabbitSender:
    """Publishes to a queue, and waits for no confirm."""

    def open(self) -> None:
        """Connect, and make the queue."""
        self._connection = pika.BlockingConnection(pika.URLParameters(os.environ["BENCH_URL"]))
        self._channel = self._connection.channel()
        self._channel.queue_declare(QUEUE, durable=True, arguments=ARGUMENTS)

    def send(self, task: str, *arguments: int) -> None:
        """Send one task."""
        self._channel.basic_publish("", QUEUE, written(*arguments).encode(), PERSISTENT)

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


def open_sender() -> RedisSender | RabbitSender:
    """Return what sends tasks."""
    return RedisSender() if os.environ["BENCH_BROKER"] == "redis" else RabbitSender()


def pop_from_redis() -> None:
    """Take from the list, for ever."""
    connection = RedisConnection()
    while True:
        popped = connection.run("BRPOP", QUEUE, "5")
        if popped is not None:
            run(popped[1])


def consume_from_rabbitmq() -> None:
    """Consume from the queue and acknowledge, for ever."""

    def on_message(channel: Any, method: Any, _: Any, body: bytes) -> None:
        run(body)
        channel.basic_ack(method.delivery_tag)

    def on_channel(channel: Any) -> None:
        channel.basic_qos(
            prefetch_count=100,
            callback=lambda _: channel.queue_declare(
                QUEUE, durable=True, arguments=ARGUMENTS, callback=lambda _: channel.basic_consume(QUEUE, on_message)
            ),
        )

    SelectConnection(
        pika.URLParameters(os.environ["BENCH_URL"]),
        on_open_callback=lambda connection: connection.channel(on_open_callback=on_channel),
    ).ioloop.start()


if __name__ == "__main__":
    pop_from_redis() if os.environ["BENCH_BROKER"] == "redis" else consume_from_rabbitmq()
