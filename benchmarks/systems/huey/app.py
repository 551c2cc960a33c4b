"""The handlers in huey, and how tasks are sent."""

from __future__ import annotations

import os
import time
from typing import Any

from huey import RedisHuey, SqliteHuey

from benchmarks.harness import recorder

URL = os.environ["BENCH_URL"]

if os.environ["BENCH_BROKER"] == "sqlite":
    huey = SqliteHuey("bench", filename=URL, fsync=True, results=False)
else:
    huey = RedisHuey("bench", url=URL, results=False)


@huey.task()
def noop(number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


@huey.task()
def io(number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    time.sleep(0.05)
    recorder.ran(number)


@huey.task()
def payload(number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


# Without a delay a failed task goes back to the queue at once.
@huey.task(retries=3)
def flaky(number: int) -> None:
    """Fail at the first attempt of one task in ten."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise RuntimeError("the first attempt fails")
    recorder.ran(number)


@huey.task()
def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


TASKS: dict[str, Any] = {"noop": noop, "io": io, "payload": payload, "flaky": flaky, "stamp": stamp}


class HueySender:
    """Sends by calling tasks; huey has no call for many, a `map` enqueues one by one too."""

    def open(self) -> None:
        """The storage connects with its first send."""

    def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        TASKS[task](*arguments)

    def close(self) -> None:
        """Disconnect."""
        huey.storage.close()


def open_sender() -> HueySender:
    """Return what sends tasks."""
    return HueySender()
