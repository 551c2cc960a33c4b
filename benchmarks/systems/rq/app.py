"""The handlers in RQ, its worker's settings, and how tasks are sent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import Queue, Retry

from benchmarks.harness import recorder

#: What `rq worker --config` takes from this module.
REDIS_URL = os.environ["BENCH_URL"]
QUEUES = ["bench"]


def noop(number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


def payload(number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


def flaky(number: int) -> None:
    """Fail at the first attempt of one task in ten."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise RuntimeError("the first attempt fails")
    recorder.ran(number)


def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


TASKS: dict[str, Any] = {"noop": noop, "payload": payload, "flaky": flaky, "stamp": stamp}


class RqSender:
    """Sends through a queue; what succeeded is not kept, what fails is tried again at once."""

    def open(self) -> None:
        """Connect."""
        self._queue = Queue(QUEUES[0], connection=Redis.from_url(REDIS_URL))

    def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        retry = Retry(max=3) if task == "flaky" else None
        self._queue.enqueue(TASKS[task], args=arguments, result_ttl=0, retry=retry)

    def send_many(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        """Send one task for each of these arguments."""
        retry = Retry(max=3) if task == "flaky" else None
        self._queue.enqueue_many(
            [Queue.prepare_data(TASKS[task], args=call, result_ttl=0, retry=retry) for call in calls]
        )

    def close(self) -> None:
        """Disconnect."""
        self._queue.connection.close()


def open_sender() -> RqSender:
    """Return what sends tasks."""
    return RqSender()
