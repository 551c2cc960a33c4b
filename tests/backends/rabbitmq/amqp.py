"""AmqpClient: any program that speaks AMQP, which knows nothing of qbridge."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import pika
from pika.exceptions import AMQPError

__all__ = ["AmqpClient"]


class AmqpClient:
    """A connection of the client library's blocking kind, as a context manager. Each call takes a few milliseconds.

    Args:
        port: Where the server listens on this machine.
    """

    def __init__(self, port: int) -> None:
        self._connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def __enter__(self) -> AmqpClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._connection.close()
        except AMQPError:  # the server went away first, or closed the channel
            return

    def publish(self, queue: str, body: bytes, *, exchange: str = "", **properties: Any) -> None:
        """Publish a message and wait for its confirm."""
        self._channel.basic_publish(exchange, queue, body, pika.BasicProperties(**properties), mandatory=True)

    def declare(self, queue: str, **arguments: Any) -> None:
        """Declare a durable queue; `x_queue_type="classic"` is the argument `x-queue-type`."""
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._channel.queue_declare(queue, durable=True, arguments=given)

    def declare_exchange(self, exchange: str) -> None:
        """Declare a durable topic exchange."""
        self._channel.exchange_declare(exchange, "topic", durable=True)

    def delete(self, queue: str) -> None:
        """Delete a queue."""
        self._channel.queue_delete(queue)

    def count(self, queue: str) -> int:
        """Return how many messages of a queue are ready."""
        return int(self._channel.queue_declare(queue, passive=True).method.message_count)

    def headers(self, queue: str) -> dict[str, Any]:
        """Take a message from a queue and return its headers."""
        method, properties, _ = self._channel.basic_get(queue, auto_ack=True)
        assert method is not None, f"queue {queue!r} is empty"
        return dict(properties.headers or {})
