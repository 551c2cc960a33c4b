"""dramatiq's RabbitMQ broker."""

from __future__ import annotations

from dramatiq.brokers.rabbitmq import RabbitmqBroker


def make_broker(url: str) -> RabbitmqBroker:
    """Return a broker on the virtual host at this URL."""
    # Without confirms a send returns before the broker has the message.
    return RabbitmqBroker(url=url, confirm_delivery=True)
