"""No task queue at all: the least that a broker, a client library and two processes need from a send to a start.

Nothing is validated, registered, leased or tried again, and one thread does everything. Whatever a task queue takes
beyond this is its own.
"""

from __future__ import annotations

from benchmarks.harness.system import Command, Setting, System, Variant

__all__ = ["SYSTEM"]


def _worker(setting: Setting) -> Command:
    return Command((str(setting.python), "-m", "benchmarks.systems.bare.app"))


def _variant(key: str, broker: str, *, guarantee: str, settings: str) -> Variant:
    return Variant(
        key=key,
        broker=broker,
        guarantee=guarantee,
        settings=settings,
        worker=_worker,
        workloads=frozenset({"latency"}),
        concurrency=1,
        forks=False,
    )


SYSTEM = System(
    name="bare",
    distribution="",
    requirements=(),  # the project's own environment has the client libraries
    variants=(
        _variant(
            "bare-redis",
            "redis",
            guarantee="at most once: no task queue, a blocking pop (the limit)",
            settings="hiredis on a blocking socket, LPUSH and BRPOP",
        ),
        _variant(
            "bare-rabbitmq",
            "rabbitmq",
            guarantee="at least once: no task queue, consume and acknowledge from a quorum queue (the limit)",
            settings="pika's SelectConnection and BlockingConnection, persistent messages, no confirms",
        ),
        _variant(
            "bare-rabbitmq-classic",
            "rabbitmq",
            guarantee="at least once: no task queue, consume and acknowledge from a classic queue (the limit)",
            settings="pika's SelectConnection and BlockingConnection, persistent messages, no confirms",
        ),
    ),
)
