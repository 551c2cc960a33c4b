"""Taking over what dead workers held: in bounded transactions, beside everything else."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from qbridge_sqlite import SqliteSource
from qbridge_sqlite.schema import CLAIMED
from tests.backends.sqlite.conftest import SourceFactory, WallClock, bodies, outgoing

#: Messages whose workers died all at once.
DEAD = 20_000

#: Leases that one transaction may take over, as it keeps every other process from writing meanwhile.
STEP = 1000


async def abandon(source: SqliteSource) -> None:
    """Let a worker claim 20,000 messages and never be heard of again."""
    await source.send(outgoing(*map(str, range(DEAD))))
    claimed = 0
    while claimed < DEAD:
        claimed += len(await source.receive(1000, 0))
    await source.close()


def held(path: Path) -> int:
    """How many messages are claimed and not yet taken over."""
    with closing(sqlite3.connect(path)) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM messages WHERE state = ?", (CLAIMED,)).fetchall()
    return int(count)


async def test_a_claim_takes_over_a_bounded_number(path: Path, open_source: SourceFactory, clock: WallClock) -> None:
    """With 20,000 leases run out, no claim takes over more than a thousand, and each still brings what is asked for."""
    await abandon(await open_source())
    worker = await open_source()
    clock.advance(61)

    taken_over: list[int] = []
    claims: list[int] = []
    before = held(path)
    for limit in (1, 10, 500, 1000, 1000):
        claims.append(len(await worker.receive(limit, 0)))
        after = held(path)
        taken_over.append(before - after + claims[-1])
        before = after

    assert [1, 10, 500, 1000, 1000] == claims
    assert [STEP] * 5 == taken_over


async def test_many_workers_share_the_taking_over(path: Path, open_source: SourceFactory, clock: WallClock) -> None:
    """Four workers take over 20,000 messages, each once, and a message that was sent meanwhile is not forgotten."""
    await abandon(await open_source())
    workers = [await open_source() for _ in range(4)]
    clock.advance(61)
    received: list[str] = []

    async def work(worker: SqliteSource) -> None:
        while deliveries := await worker.receive(500, 0):
            received.extend(bodies(deliveries))
            await worker.settle([delivery.ack() for delivery in deliveries])

    async def send() -> None:
        await workers[0].send(outgoing("new"))

    await asyncio.gather(send(), *map(work, workers))

    assert sorted([*map(str, range(DEAD)), "new"]) == sorted(received)
    assert 0 == held(path)
