"""A message that kills its workers: it ends as a dead letter, and nobody beside it does."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from qbridge import QBridge, TaskMessage
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer
from tests.support.run_ledger import LEDGER, Ledger
from tests.support.worker_process import WorkerProcess

#: Messages that are in flight beside the one that kills.
BYSTANDERS = 30

#: Workers that a message may kill; the default of the service.
MAX_CRASHES = 3

PATIENCE = 30.0

HANDLERS = (
    LEDGER
    + """
import asyncio

@registry.task
async def work(kills: bool, context: TaskContext) -> None:
    note("start", context)
    if kills:
        await asyncio.sleep(0.3)  # the others have started meanwhile
        os._exit(9)
    await asyncio.sleep(0 if context.attempt > 2 else 0.6)
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
        yield {"backend": "sqlite", "path": str(tmp_path / "q.db"), "lease": "2s"}
    elif request.param == "redis":
        with RedisServer() as redis:
            yield {"backend": "redis", "url": redis.url, "key": "q", "lease": "2s"}
    else:
        rabbit: RabbitServer = request.getfixturevalue("rabbitmq_server")
        yield {"backend": "rabbitmq", "url": rabbit.url, "queue": f"poison.{uuid.uuid4().hex}"}


def test_a_message_that_kills_workers_takes_nobody_with_it(queue: dict[str, Any], tmp_path: Path) -> None:
    """After its third worker it is a dead letter `crashed`; all that was in flight with it is run to its end."""
    keys = ", ".join(f"{key}: '{value}'" for key, value in queue.items())
    (tmp_path / "qbridge.yaml").write_text(f"handlers: [ledger_tasks]\nqueues:\n  default: {{{keys}}}\n")
    (tmp_path / "ledger_tasks.py").write_text(HANDLERS)
    poison, *bystanders = asyncio.run(send(queue))
    ledger = Ledger(tmp_path)

    for _ in range(MAX_CRASHES):
        with WorkerProcess(tmp_path) as worker:
            assert 9 == worker.wait(PATIENCE)
    with WorkerProcess(tmp_path) as last:
        ledger.wait(lambda book: book.ids("end").keys() >= set(bystanders), timeout=PATIENCE, why=lambda: last.log[-5:])
        died = asyncio.run(wait_for_the_dead(queue))

    assert {poison: MAX_CRASHES} == {each: n for each, n in ledger.ids("start").items() if each == poison}
    assert [(poison, "crashed")] == died


async def send(queue: Mapping[str, Any]) -> list[str]:
    """Send the message that kills, and the others after it; return their ids."""
    async with QBridge(queues={"default": queue}) as bridge:
        return await bridge.send_many(TaskMessage(task="work", args=[number == 0]) for number in range(BYSTANDERS + 1))


async def wait_for_the_dead(queue: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the ids and the reasons of the dead letters once there are any: a lease must run out before."""
    async with asyncio.timeout(PATIENCE):
        while not (died := await dead(queue)):  # noqa: ASYNC110  # another process lets it die
            await asyncio.sleep(0.2)
    return died


async def dead(queue: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the ids and the reasons of the dead letters."""
    async with QBridge(queues={"default": queue}) as bridge, bridge.source() as source:
        return [(json.loads(letter.body)["id"], letter.reason) for letter in await source.dead_letters(limit=100)]
