"""The handlers in dramatiq, and how tasks are sent."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import dramatiq

from benchmarks.harness import recorder

logging.basicConfig(level=logging.WARNING)

if os.environ["BENCH_BROKER"] == "redis":
    from benchmarks.systems.dramatiq.on_redis import make_broker
else:
    from benchmarks.systems.dramatiq.on_rabbitmq import make_broker

dramatiq.set_broker(make_broker(os.environ["BENCH_URL"]))


@dramatiq.actor
def noop(number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


@dramatiq.actor
def io(number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    time.sleep(0.05)
    recorder.ran(number)


@dramatiq.actor
def payload(number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


@dramatiq.actor(max_retries=3, min_backoff=1, max_backoff=1)
def flaky(number: int) -> None:
    """Fail at the first attempt of one task in ten."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise RuntimeError("the first attempt fails")
    recorder.ran(number)


@dramatiq.actor
def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


ACTORS = {actor.actor_name: actor for actor in (noop, io, payload, flaky, stamp)}


class DramatiqSender:
    """Sends through actors, over a pool of connections."""

    def open(self) -> None:
        """The broker connects with its first send."""

    def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        ACTORS[task].send(*arguments)

    def close(self) -> None:
        """Disconnect."""
        dramatiq.get_broker().close()


def open_sender() -> DramatiqSender:
    """Return what sends tasks."""
    return DramatiqSender()
