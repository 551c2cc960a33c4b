"""The handlers in Celery, and how tasks are sent."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from benchmarks.harness import recorder
from benchmarks.systems.celery.on_rabbitmq import RABBITMQ_SETTINGS

app = Celery("bench", broker=os.environ["BENCH_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    worker_disable_rate_limits=True,
    worker_enable_remote_control=False,
    broker_pool_limit=16,
)
if os.environ["BENCH_BROKER"] == "rabbitmq":
    app.conf.update(RABBITMQ_SETTINGS)


@app.task(name="noop")
def noop(number: int) -> None:
    """Do nothing."""
    recorder.ran(number)


@app.task(name="io")
def io(number: int) -> None:
    """Wait as for somebody else's answer."""
    recorder.started()
    time.sleep(0.05)
    recorder.ran(number)


@app.task(name="payload")
def payload(number: int, text: str) -> None:
    """Take a text."""
    recorder.ran(number)


@app.task(name="flaky", autoretry_for=(RuntimeError,), default_retry_delay=0)
def flaky(number: int) -> None:
    """Fail at the first attempt of one task in ten."""
    if number % 10 == 0 and recorder.attempt(number) == 1:
        raise RuntimeError("the first attempt fails")
    recorder.ran(number)


@app.task(name="stamp")
def stamp(number: int, sent: int) -> None:
    """Note how long ago it was sent."""
    recorder.latency(number, sent)


class CelerySender:
    """Sends through tasks, over a pool of connections."""

    def open(self) -> None:
        """The pool connects with its first send."""

    def send(self, task: str, *arguments: Any) -> None:
        """Send one task."""
        app.tasks[task].delay(*arguments)

    def close(self) -> None:
        """Disconnect."""
        app.close()


def open_sender() -> CelerySender:
    """Return what sends tasks."""
    return CelerySender()
