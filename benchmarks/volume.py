"""Many small tasks through one worker: does each run exactly once, how fast, and does memory stay flat?

    python benchmarks/volume.py                 # the memory backend with 1,000,000, Redis and SQLite with 200,000
    python benchmarks/volume.py redis 50000

A producer fills the queue while the worker runs; on Redis and SQLite it is a process of its own. Each task carries its
number and one argument that pydantic checks; the worker counts what it ran in a byte for each number. Redis keeps an
append-only file (`appendfsync everysec`), SQLite commits with `synchronous=FULL`. The memory of the worker process is
read at 10 % and at 100 % of the tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from qbridge import HandlerRegistry, QBridge, TaskMessage

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.redis_server import RedisServer

DEFAULTS = {"memory": 1_000_000, "redis": 200_000, "sqlite": 200_000}
BATCH = 1000
MOST_READY = 20_000  # what the producer keeps in the memory backend, whose messages are the worker's memory too

registry = HandlerRegistry()
runs = bytearray()
ran = 0
process = psutil.Process()


@registry.task
async def count(number: int) -> None:
    """Count that this task ran."""
    global ran  # noqa: PLW0603  # the cheapest way for a handler to count
    runs[number] += 1
    ran += 1


@contextmanager
def queue_keys(backend: str) -> Iterator[dict[str, Any]]:
    """Give the keys of a fresh queue on a broker of its own."""
    if backend == "memory":
        yield {"backend": "memory"}
    elif backend == "sqlite":
        with tempfile.TemporaryDirectory(prefix="qbridge-volume-") as folder:
            yield {"backend": "sqlite", "path": str(Path(folder) / "q.db")}
    else:
        with RedisServer() as server:
            yield {"backend": "redis", "url": server.url, "key": "volume"}


async def produce(bridge: QBridge, tasks: int, *, most_ready: int | None = None) -> None:
    """Send all tasks, and no faster than they are run where `most_ready` bounds what waits."""
    for first in range(0, tasks, BATCH):
        numbers = range(first, min(first + BATCH, tasks))
        await bridge.send_many(TaskMessage(task="count", args=[number]) for number in numbers)
        while most_ready is not None and first - ran > most_ready:  # noqa: ASYNC110  # the handler tells nobody
            await asyncio.sleep(0.01)


async def work(keys: dict[str, Any], tasks: int) -> dict[str, Any]:
    """Run a worker until all tasks have run; return what was measured."""
    runs.extend(bytes(tasks))
    async with QBridge(registry, queues={"default": keys}) as bridge:
        running = asyncio.create_task(bridge.run())
        producing = None
        if keys["backend"] == "memory":
            producing = asyncio.create_task(produce(bridge, tasks, most_ready=MOST_READY))
        began = None
        memory_at_tenth = 0.0
        while ran < tasks:
            if running.done():
                await running
            if ran and began is None:
                began = time.perf_counter()
            if ran >= tasks // 10 and not memory_at_tenth:
                memory_at_tenth = process.memory_info().rss / 2**20
            await asyncio.sleep(0.02)
        seconds = time.perf_counter() - (began or 0.0)
        memory_at_end = process.memory_info().rss / 2**20
        if producing is not None:
            await producing
        bridge.stop()
        report = await running
        async with bridge.source() as source:
            stats = await source.stats()
    return {
        "tasks": tasks,
        "per_second": round(tasks / seconds),
        "rss_10": round(memory_at_tenth, 1),
        "rss_100": round(memory_at_end, 1),
        "once": runs.count(1),
        "left": stats.ready + stats.delayed + stats.in_flight,
        "dead": stats.dead,
        "abandoned": report.abandoned,
    }


async def produce_alone(keys: dict[str, Any], tasks: int) -> None:
    """Send all tasks from this process."""
    async with QBridge(queues={"default": keys}) as bridge:
        await produce(bridge, tasks)


def measure(backend: str, tasks: int) -> dict[str, Any]:
    """Run producer and worker on a broker of their own; return what the worker measured."""
    with queue_keys(backend) as keys:
        command = [sys.executable, __file__, backend, str(tasks), "--keys", json.dumps(keys), "--role"]
        producer = None if backend == "memory" else subprocess.Popen([*command, "producer"])
        worker = subprocess.run([*command, "worker"], capture_output=True, text=True, check=True, timeout=540)
        if producer is not None and producer.wait(timeout=60) != 0:
            raise RuntimeError(f"the producer failed with exit code {producer.returncode}")
        measured: dict[str, Any] = json.loads(worker.stdout)
        return measured


def main() -> int:
    """Measure the backends asked for; return 0 if every task ran exactly once and nothing is left."""
    parser = argparse.ArgumentParser(description="Many small tasks through one worker.")
    parser.add_argument("backend", nargs="?", choices=[*DEFAULTS])
    parser.add_argument("tasks", nargs="?", type=int)
    parser.add_argument("--role", choices=["producer", "worker"], help=argparse.SUPPRESS)
    parser.add_argument("--keys", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "producer":
        asyncio.run(produce_alone(arguments.keys, arguments.tasks))
        return 0
    if arguments.role == "worker":
        print(json.dumps(asyncio.run(work(arguments.keys, arguments.tasks))))
        return 0
    print("| backend | tasks | tasks/s | RSS at 10 % | RSS at 100 % | run once | left | dead |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    all_well = True
    for backend in [arguments.backend] if arguments.backend else DEFAULTS:
        found = measure(backend, arguments.tasks or DEFAULTS[backend])
        print(
            f"| {backend} | {found['tasks']:,} | {found['per_second']:,} | {found['rss_10']} MiB "
            f"| {found['rss_100']} MiB | {found['once']:,} | {found['left']} | {found['dead']} |",
            flush=True,
        )
        all_well &= found["once"] == found["tasks"] and not (found["left"] or found["dead"] or found["abandoned"])
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main())
