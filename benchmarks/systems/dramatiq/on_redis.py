"""dramatiq's Redis broker."""

from __future__ import annotations

from dramatiq.brokers.redis import RedisBroker


def make_broker(url: str) -> RedisBroker:
    """Return a broker on the server at this URL."""
    # redis-py opens 100 connections at most; 100 threads and the two that fetch need more.
    return RedisBroker(url=f"{url}?max_connections=200")
