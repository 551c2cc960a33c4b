"""Workers that are killed with -9 while tasks flow: every message that a broker has confirmed is run to its end.

`QBRIDGE_CHAOS_TASKS` sets how many tasks flow. `pytest -s` shows the figures.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from qbridge import QBridge
from tests.support.numbered_producer import confirmed_ids, producing
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer
from tests.support.run_ledger import LEDGER, Ledger
from tests.support.worker_process import WorkerProcess

TASKS = int(os.environ.get("QBRIDGE_CHAOS_TASKS", "5000"))

KILLS = 5

#: Some messages may be in flight at every kill: none of them must be taken for the one that kills.
MAX_CRASHES = KILLS + 2

CONCURRENCY = 200

#: Runs of one killed worker that may be repeated: what runs, and what has ended and whose settlement is on its way.
#: The broker is told within milliseconds, and a handler takes 20 to 80: twice the concurrency leaves it 100.
IN_FLIGHT = 3 * CONCURRENCY

#: Seconds after which a killed worker's messages are another's, where there are leases.
LEASE = 3

#: Seconds for all of it, on a busy machine.
PATIENCE = 60 + TASKS / 400

HANDLERS = (
    LEDGER
    + """
import asyncio, random

@registry.task
async def record(number: int, context: TaskContext) -> None:
    note("start", context)
    await asyncio.sleep(random.uniform(0.02, 0.08))
    note("end", context)
"""
)


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ]
)
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The keys of a queue on each broker that several processes share."""
    if request.param == "sqlite":
        yield {"backend": "sqlite", "path": str(tmp_path / "q.db"), "lease": f"{LEASE}s"}
    elif request.param == "redis":
        with RedisServer() as redis:
            yield {"backend": "redis", "url": redis.url, "key": "q", "lease": f"{LEASE}s"}
    else:
        rabbit: RabbitServer = request.getfixturevalue("rabbitmq_server")
        yield {"backend": "rabbitmq", "url": rabbit.url, "queue": f"killed.{uuid.uuid4().hex}"}


@pytest.mark.timeout(PATIENCE + 30)
def test_every_confirmed_message_is_run_though_workers_are_killed(queue: dict[str, Any], tmp_path: Path) -> None:
    """Five killed workers lose no message, leave no dead letter, and repeat only what they held."""
    write_service(tmp_path, queue)
    ledger = Ledger(tmp_path)
    killed: list[int] = []
    began = time.monotonic()

    with producing(tmp_path, queue, TASKS) as producer:
        for kill in range(1, KILLS + 1):
            with WorkerProcess(tmp_path) as worker:
                wait_for_ends(ledger, worker, TASKS * kill // (KILLS + 1))
                worker.signal(signal.SIGKILL)
                assert -signal.SIGKILL == worker.wait()
                killed.append(worker.pid)
        with WorkerProcess(tmp_path) as last:
            assert 0 == producer.wait(PATIENCE)
            confirmed = confirmed_ids(tmp_path)
            ledger.wait(lambda book: is_all(book, confirmed), timeout=PATIENCE, why=lambda: last.log)
            took = time.monotonic() - began
            asyncio.run(until_nothing_is_left(queue))
            last.signal(signal.SIGTERM)
            assert 0 == last.wait()

    ends = ledger.read().ids("end")
    repeated = runs_that_were_repeated(ledger)
    tell(queue, took, ends, [repeated[process] for process in killed])
    assert TASKS == len(set(confirmed))
    assert set(confirmed) == set(ends), "a confirmed message was not run, or one that nobody sent was"
    assert set(confirmed) == set(ledger.ids("start"))
    assert set(killed) >= set(repeated), "a message was run again though its worker lived"
    assert all(count <= IN_FLIGHT for count in repeated.values()), "more was run again than a worker had in flight"
    assert (0, 0, 0, 0) == asyncio.run(count_left(queue))


def write_service(folder: Path, queue: Mapping[str, Any]) -> None:
    """Write a worker's YAML file and handlers."""
    keys = ", ".join(f"{key}: '{value}'" for key, value in queue.items())
    (folder / "qbridge.yaml").write_text(
        f"handlers: [ledger_tasks]\nqueues:\n  default: {{{keys}}}\nloops:\n  default: {{concurrency: {CONCURRENCY}}}\n"
        f"max_crashes: {MAX_CRASHES}\n"
    )
    (folder / "ledger_tasks.py").write_text(HANDLERS)


def wait_for_ends(ledger: Ledger, worker: WorkerProcess, count: int) -> None:
    """Wait until so many handlers have ended."""
    ledger.wait(lambda book: book.count["end"] >= count, timeout=PATIENCE, why=lambda: worker.log)


def is_all(ledger: Ledger, confirmed: Sequence[str]) -> bool:
    """Return whether a handler has ended for each of these messages."""
    return ledger.count["end"] >= len(confirmed) and ledger.ids("end").keys() >= set(confirmed)


def runs_that_were_repeated(ledger: Ledger) -> Counter[int]:
    """Return by process how many messages it has started that were started again, by itself or by another."""
    runs: defaultdict[str, list[int]] = defaultdict(list)
    for entry in ledger.entries:
        if entry.kind == "start":
            runs[entry.message_id].append(entry.process)
    return Counter(process for processes in runs.values() for process in processes[:-1])


async def until_nothing_is_left(queue: Mapping[str, Any]) -> None:
    """Wait until what a killed worker had ended, but not settled, has come back and is settled."""
    async with QBridge(queues={"default": queue}) as bridge, bridge.source() as source:
        async with asyncio.timeout(PATIENCE):
            while (stats := await source.stats()).ready + stats.delayed + stats.in_flight:  # noqa: ASYNC110  # a broker has none
                await asyncio.sleep(0.05)


async def count_left(queue: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return how many messages are ready, delayed, in flight and dead."""
    async with QBridge(queues={"default": queue}) as bridge, bridge.source() as source:
        stats = await source.stats()
    return stats.ready, stats.delayed, stats.in_flight, stats.dead


def tell(queue: Mapping[str, Any], took: float, ends: Counter[str], repeated: Sequence[int]) -> None:
    """Print the figures."""
    twice = sum(count - 1 for count in ends.values())
    print(
        f"\n{queue['backend']}: {len(ends)} tasks in {took:.1f} s ({len(ends) / took:.0f}/s), {len(repeated)} kills; "
        f"run again after each: {list(repeated)} of at most {IN_FLIGHT}; ended more than once: {twice}"
    )
