"""qbridge as it lies in this folder: `qbridge run` on every broker.

Its peers take 100 to 1,000 tasks ahead of what runs. Here it is `read_ahead: 300`, which the guide tells people to
measure for tasks of microseconds. The variants whose names end with `-read-ahead-0` drain without it, as a worker does
whose file doesn't say.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from benchmarks.harness.system import EVERY_WORKLOAD, Command, Setting, System, Variant

__all__ = ["CLASSIC", "SYSTEM", "configuration", "queue_keys"]

READ_AHEAD = 300

#: RabbitMQ with classic queues.
CLASSIC = "rabbitmq-classic"

_SENT_APART = EVERY_WORKLOAD | {"enqueue_bulk", "cpu_neighbour"}


def queue_keys(broker: str, url: str, name: str) -> dict[str, Any]:
    """Return the keys of a queue of this name on the measured broker, or on `CLASSIC`."""
    own: dict[str, dict[str, Any]] = {
        "redis": {"url": url, "key": name},
        "rabbitmq": {"url": url, "queue": name},
        CLASSIC: {"url": url, "queue": name, "queue_type": "classic"},
        "sqlite": {"path": url},
        "memory": {},
    }
    # Over the default of 1 MiB, as the envelope of a payload of 1 MiB is larger.
    return {"backend": broker.partition("-")[0], "max_message_size": "2MiB"} | own[broker]


def configuration(broker: str, setting: Setting, *, read_ahead: int = 0) -> dict[str, Any]:
    """Return what the service's YAML file says."""
    # A rate is taken from the first handler's start on: what is read ahead of it would not count.
    read_ahead = 0 if setting.workload == "payload_1MiB" else read_ahead
    queues = {"default": queue_keys(broker, setting.url, "bench") | {"read_ahead": read_ahead}}
    loops = {"default": {"threads": 1, "concurrency": setting.concurrency, "implementation": "uvloop"}}
    if setting.workload == "cpu_neighbour":
        queues["crunching"] = queue_keys(broker, setting.url, "crunching") | {"loops": "crunching"}
        loops["crunching"] = {"threads": 1, "concurrency": 1, "implementation": "uvloop"}
    return {
        "handlers": ["benchmarks.systems.qbridge.app"],
        "queues": queues,
        "processes": setting.processes,
        "loops": loops,
        "logging": {"level": "warning"},
    }


def _worker(broker: str, setting: Setting, read_ahead: int = READ_AHEAD) -> Command:
    file = setting.folder / "qbridge.yaml"
    file.write_text(json.dumps(configuration(broker, setting, read_ahead=read_ahead)))  # YAML takes JSON
    return Command((setting.program("qbridge"), "run", "-c", str(file)))


def _memory_worker(setting: Setting) -> Command:
    return Command((str(setting.python), "-m", "benchmarks.systems.qbridge.in_memory"))


def _variants(broker: str, key: str, queue: str, *, guarantee: str, tasks: int) -> tuple[Variant, Variant]:
    """Return qbridge on a broker with tasks read ahead, in all workloads, and without, in drains."""
    leading = Variant(
        key=key,
        broker=broker,
        guarantee=guarantee,
        settings=f"{queue}, uvloop, {READ_AHEAD} read ahead",
        worker=lambda setting: _worker(broker, setting),
        workloads=_SENT_APART,
        tasks=tasks,
    )
    plain = replace(
        leading,
        key=f"{key}-read-ahead-0",
        settings=f"{queue}, uvloop, no read-ahead",
        worker=lambda setting: _worker(broker, setting, read_ahead=0),
        workloads=frozenset({"drain"}),
    )
    return leading, plain


SYSTEM = System(
    name="qbridge",
    distribution="qbridge",
    requirements=(),  # the project's own environment: the one that runs the harness
    variants=(
        *_variants(
            "redis",
            "qbridge",
            "lists",
            guarantee="at least once (30 s lease, renewed), attempts and crashes counted",
            tasks=100_000,
        ),
        *_variants(
            "rabbitmq",
            "qbridge-rabbitmq",
            "quorum queue",
            guarantee="at least once, quorum queue, publisher confirms",
            tasks=40_000,
        ),
        *_variants(
            "sqlite",
            "qbridge-sqlite",
            "one file",
            guarantee="at least once (30 s lease, renewed), synchronous=FULL",
            tasks=40_000,
        ),
        Variant(
            key="qbridge-rabbitmq-classic",
            broker="rabbitmq",
            guarantee="at least once, classic queue, publisher confirms",
            settings=f"classic queue, uvloop, {READ_AHEAD} read ahead",
            worker=lambda setting: _worker(CLASSIC, setting),
            workloads=frozenset({"drain", "latency"}),
            tasks=40_000,
        ),
        Variant(
            key="qbridge-memory",
            broker="memory",
            guarantee="until the process ends",
            settings="sender and worker in one process, uvloop",
            worker=_memory_worker,
            workloads=frozenset({"drain", "io", "payload_100B", "payload_10KiB", "retries", "rss", "cold_start"}),
            tasks=100_000,
            sends_itself=True,
        ),
    ),
)
