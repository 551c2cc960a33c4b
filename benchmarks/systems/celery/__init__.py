"""Celery by its command `celery worker`, on Redis lists and on RabbitMQ through kombu.

`task_acks_late`, since by default a message is acknowledged before its task runs: that is at most once, and costs as
many commands. What a dead worker held comes back after the visibility timeout of an hour. The transport pops a message
first and notes it as unacknowledged with further commands, so a worker that dies in between loses it.

The pool of threads took the least processor time per no-op: 1.7 ms against 1.9 (solo), 2.3 to 2.8 (prefork) and 2.7
(gevent), all on a busy machine in November 2026. No results, no events, no remote control, no rate limits, no gossip,
no mingling, no heartbeat; the prefetch multiplier is the default of 4.

On RabbitMQ a message is returned as soon as its worker's connection is lost. The queue is a quorum queue on a topic
exchange, as the documentation asks for, and sends wait for their confirm, which they don't by default.

One command is one worker: the harness starts two.
"""

from __future__ import annotations

from benchmarks.harness.system import Command, Setting, System, Variant

__all__ = ["SYSTEM", "command"]


def command(setting: Setting) -> Command:
    """Return the command that runs a worker with a pool of threads."""
    return Command(
        (
            *(setting.program("celery"), "--app", "benchmarks.systems.celery.app", "worker", "--loglevel", "warning"),
            *("--pool", "threads", "--concurrency", str(setting.concurrency)),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        )
    )


SYSTEM = System(
    name="celery",
    distribution="celery",
    requirements=("celery[redis]==5.7.0", "kombu==5.7.0", "amqp==5.4.2", "redis==8.1.0", "hiredis==3.5.0"),
    variants=(
        Variant(
            key="celery",
            broker="redis",
            guarantee="at least once: a dead worker's tasks come back after 1 h; lost if it dies between pop and note",
            settings="100 threads, acks late, prefetch multiplier 4, hiredis, no results, no events, no remote control",
            worker=command,
            absent={"enqueue_bulk": "no call for many: a group sends one by one"},
            tasks=3_000,
            forks=False,
        ),
        Variant(
            key="celery-rabbitmq",
            broker="rabbitmq",
            guarantee="at least once, quorum queue, publisher confirms",
            settings="100 threads, acks late, prefetch multiplier 4, no results, no events, no remote control",
            worker=command,
            absent={"enqueue_bulk": "no call for many: a group sends one by one"},
            tasks=4_000,
            forks=False,
        ),
    ),
)
