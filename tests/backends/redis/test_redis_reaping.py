"""Taking over what dead workers held: in small steps, beside everything else, and not from those that live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from qbridge import Settled
from qbridge_redis import RedisSource
from tests.backends.redis.conftest import SourceFactory
from tests.backends.redis.steps import bodies, calls, outgoing, receive_all, until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

#: Messages whose workers died all at once.
DEAD = 20_000

#: Leases that one claim may take over, as it holds up the server for all of its other clients meanwhile.
STEP = 100

#: Claims that a worker may make in vain while others take over.
VAIN = 5


@pytest.fixture(scope="module")
def aged_server(_redis_server_is_installed: None) -> Iterator[RedisServer]:
    """A server on which leases that have run out are taken over at once, as its start is long ago."""
    with RedisServer() as server:
        while int(server.info("server")["uptime_in_seconds"]) < 3:
            time.sleep(0.05)
        yield server


async def abandon(server: RedisServer, open_source: SourceFactory, key: str, count: int) -> None:
    """Let a worker claim that many messages and never be heard of again; return when its leases have run out."""
    dead = await open_source(server, key, lease=2)
    for _ in range(0, count, 500):
        await dead.send(outgoing(*[b"old"] * 500))
    claimed = 0
    while claimed < count:
        claimed += len(await dead.receive(500, 0))
    await dead.close()
    await until(lambda: count == lapsed(server, key))


def lapsed(server: RedisServer, key: str) -> int:
    """How many leases have run out and were not taken over."""
    seconds, microseconds = server.cli("TIME").split()
    return int(server.cli("ZCOUNT", f"{{{key}}}:qbridge:leases", "-inf", seconds + microseconds.rjust(6, "0")))


async def test_a_claim_takes_over_a_bounded_number(
    aged_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """With 20,000 leases run out, no claim takes over more than a hundred, and each still brings what it can."""
    await abandon(aged_server, open_source, key, DEAD)
    worker = await open_source(aged_server, key, lease=2)
    await worker.send(outgoing(*[b"new"] * 50))

    taken_over: list[int] = []
    claims: list[list[bytes]] = []
    before = lapsed(aged_server, key)
    for limit in (1, 10, 100, 120, 500, 500):
        claims.append(bodies(await worker.receive(limit, 0)))
        after = lapsed(aged_server, key)
        taken_over.append(before - after)
        before = after

    assert [STEP] * 6 == taken_over
    # All that is asked for while there is enough; then what was taken over and what lay in the list beside it.
    assert [1, 10, 100, 120, 269 + 50, STEP] == [len(claim) for claim in claims]
    assert 50 == sum(claim.count(b"new") for claim in claims)


async def test_many_workers_share_the_taking_over(
    aged_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Eight idle workers take over 20,000 messages, each once, with hardly a claim more than the steps need."""
    workers = [await open_source(aged_server, key, lease=3) for _ in range(8)]
    await abandon(aged_server, open_source, key, DEAD)
    aged_server.cli("CONFIG", "RESETSTAT")
    receipts: list[object] = []
    settlements = 0

    async def work(worker: RedisSource) -> None:
        nonlocal settlements
        while len(receipts) < DEAD:
            deliveries = await worker.receive(500, 1)
            receipts.extend(delivery.receipt for delivery in deliveries)
            if deliveries:
                settlements += 1
                await worker.settle([delivery.ack() for delivery in deliveries])

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(work(worker))
    claims = calls(aged_server)["evalsha"] - settlements

    assert DEAD == len(receipts) == len(set(receipts))
    assert claims <= DEAD / STEP + VAIN * len(workers)


async def test_a_worker_that_comes_back_late_leaves_others_time(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Workers are cut off while a server is away and then loads its data: the first that is back takes nothing over."""
    first = await open_source(own_server, key, lease=2)
    second = await open_source(own_server, key, lease=2)
    await second.send(outgoing(b"held"))
    [held] = await second.receive(1, 1)
    own_server.restart()
    await first.close()
    await second.close()
    await until(lambda: int(own_server.info("server")["uptime_in_seconds"]) >= 3)

    await first.open()
    early = await first.receive(1, 0)
    await second.open()

    assert [] == early
    assert [] == await second.keep_alive([held])
    assert [Settled.DONE] == await second.settle([held.ack()])


async def test_long_leases_do_not_delay_a_recovery(
    own_server: RedisServer, open_source: SourceFactory, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a server's start leases are taken over once living workers had time to return, however long they are."""
    monkeypatch.setattr("qbridge_redis.source._GRACE", 1.0)
    dead = await open_source(own_server, key, lease=0.5)
    await dead.send(outgoing(b"dead"))
    await dead.receive(1, 1)
    await dead.close()
    own_server.restart()
    worker = await open_source(own_server, key, lease=600)

    early = await worker.receive(1, 0)
    late = await receive_all(worker, 1)

    assert [] == early
    assert [b"dead"] == bodies(late)
