"""A worker that is killed loses nothing: another runs what it held, and nothing runs twice while its worker lives."""

from __future__ import annotations

import asyncio
import signal
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from qbridge import QBridge, TaskMessage
from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess

TASKS = 200

HANDLERS = """
import asyncio, os
from qbridge import HandlerRegistry, TaskContext

registry = HandlerRegistry()
ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@registry.task
async def record(number: int, context: TaskContext) -> None:
    os.write(ledger, f"start {number} {os.getpid()} {context.attempt}\\n".encode())
    if context.attempt == 1:
        await asyncio.sleep(600)  # until the worker is killed
    await asyncio.sleep(0.5)
    os.write(ledger, f"end {number} {os.getpid()} {context.attempt}\\n".encode())
"""


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The keys of a queue with a short lease, on each broker that several processes share."""
    if request.param == "sqlite":
        yield {"backend": "sqlite", "path": str(tmp_path / "q.db"), "lease": "2s"}
        return
    with RedisServer() as server:
        yield {"backend": "redis", "url": server.url, "key": "q", "lease": "2s"}


def write_service(folder: Path, queue: Mapping[str, Any]) -> None:
    """Write a worker's YAML file and handlers."""
    keys = ", ".join(f"{key}: '{value}'" for key, value in queue.items())
    (folder / "qbridge.yaml").write_text(
        textwrap.dedent(f"""
            handlers: [ledger_tasks]
            queues:
              default: {{{keys}}}
            loops:
              default: {{concurrency: 1000}}
        """)
    )
    (folder / "ledger_tasks.py").write_text(HANDLERS)


def ledger(folder: Path) -> list[tuple[str, int, int, int]]:
    """Return what handlers have written: start or end, task number, process, attempt."""
    lines = (line.split() for line in (folder / "ledger").read_text().splitlines())
    return [(kind, int(number), int(process), int(attempt)) for kind, number, process, attempt in lines]


async def send_all(queue: Mapping[str, Any]) -> None:
    """Send the tasks, numbered from 0."""
    async with QBridge(queues={"default": queue}) as bridge:
        await bridge.send_many(TaskMessage(task="record", args=[number]) for number in range(TASKS))


async def count_left(queue: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return how many messages are ready, delayed, in flight and dead."""
    async with QBridge(queues={"default": queue}) as bridge, bridge.source() as source:
        stats = await source.stats()
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


def test_another_worker_runs_all_that_a_killed_one_held(queue: dict[str, Any], tmp_path: Path) -> None:
    """200 tasks in flight in a worker that is killed with -9 are each run to their end by another, once."""
    write_service(tmp_path, queue)
    asyncio.run(send_all(queue))
    with WorkerProcess(tmp_path) as first:
        wait_for_ledger(first, tmp_path, "start", TASKS)

        first.signal(signal.SIGKILL)
        assert -signal.SIGKILL == first.wait()
        assert (0, 0, TASKS, 0) == asyncio.run(count_left(queue))

        with WorkerProcess(tmp_path) as second:
            wait_for_ledger(second, tmp_path, "end", TASKS)
            second.signal(signal.SIGTERM)
            assert 0 == second.wait()
            living = second.pid

    entries = ledger(tmp_path)
    runs = Counter(number for kind, number, process, _ in entries if kind == "start" and process == living)
    ends = Counter(number for kind, number, _, _ in entries if kind == "end")
    assert dict.fromkeys(range(TASKS), 1) == runs, "run twice by a living worker, or not at all"
    assert dict.fromkeys(range(TASKS), 1) == ends, "lost, or ended twice"
    assert {2} == {attempt for kind, _, _, attempt in entries if kind == "end"}, "the crash did not count"
    assert (0, 0, 0, 0) == asyncio.run(count_left(queue))


def wait_for_ledger(worker: WorkerProcess, folder: Path, kind: str, count: int) -> None:
    """Wait until so many tasks have started or ended."""

    def enough(_: list[str]) -> bool:
        return (folder / "ledger").exists() and sum(entry[0] == kind for entry in ledger(folder)) >= count

    worker.wait_for(enough)
