"""What may happen to an open source: the server forgets, restarts, hangs or hangs up; a program calls out of order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from qbridge import (
    Settled,
    SourceClosed,
    SourceUnavailable,
)
from qbridge_redis import RedisOptions, RedisSource
from tests.backends.redis.conftest import SourceFactory
from tests.backends.redis.steps import bodies, outgoing, receive_all, until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


async def test_everything_works_after_the_scripts_were_forgotten(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """SCRIPT FLUSH before each call costs nothing but a repetition."""
    source = await open_source(own_server, key)

    async def forget() -> None:
        own_server.cli("SCRIPT", "FLUSH")

    await source.send(outgoing(b"1", b"2", b"3"))
    await forget()
    one, two, three = await source.receive(3, 1)
    await forget()
    outcomes = await source.settle([one.ack(), two.dead_letter("rejected")])
    await forget()
    kept = await source.keep_alive([three])
    await forget()
    await source.send(outgoing(b"4", delay=0.01))
    await forget()
    letters = await source.dead_letters()
    await forget()
    redriven = await source.redrive()
    await forget()
    again = await receive_all(source, 2)
    await forget()
    stats = await source.stats()
    waiting = asyncio.create_task(source.receive(1, 20))
    await until(lambda: "1" == own_server.info("clients")["blocked_clients"])
    await forget()
    own_server.cli("LPUSH", key, "5")

    assert [Settled.DONE] * 2 == outcomes
    assert ([], 1, 1) == (kept, len(letters), redriven)
    assert {b"2", b"4"} == set(bodies(again))
    assert 3 == stats.in_flight
    assert [b"5"] == bodies(await asyncio.wait_for(waiting, 5))


async def test_a_killed_server_keeps_messages_attempts_and_leases(
    durable_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """kill -9 of the server with messages everywhere: after its restart each is where it was."""
    source = await open_source(durable_server, key, lease=3)
    await source.send([*outgoing(*[b"%d" % number for number in range(6)]), *outgoing(b"later", delay=0.5)])
    acked, retried, dead, held, lost = await source.receive(5, 1)
    await source.settle([acked.ack(), retried.retry(0.5, "failed"), dead.dead_letter("rejected", "bad")])
    durable_server.kill()
    with pytest.raises(SourceUnavailable):
        await source.receive(10, 1)
    await source.close()
    durable_server.start()
    await source.open()

    kept = await source.keep_alive([held])
    back = await receive_all(source, 3)
    settled = await source.settle([held.ack()])
    lapsed = await receive_all(source, 1)
    [letter] = await source.dead_letters()

    assert [] == kept
    assert [Settled.DONE] == settled
    assert {(b"5", 1), (b"1", 2), (b"later", 1)} == {(delivery.body, delivery.attempt) for delivery in back}
    assert [(lost.body, 2, 1)] == [(delivery.body, delivery.attempt, delivery.crashes) for delivery in lapsed]
    assert (b"2", "rejected", ("bad",)) == (letter.body, letter.reason, letter.errors)


async def test_after_a_long_outage_living_workers_keep_what_they_hold(
    durable_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Leases that lapsed while the server was away aren't taken before their workers had one lease to renew them."""
    source = await open_source(durable_server, key, lease=2)
    other = await open_source(durable_server, key, lease=2)
    await source.send(outgoing(b"held", b"lost"))
    held, lost = await source.receive(2, 1)
    durable_server.kill()
    await source.close()
    await other.close()
    await asyncio.sleep(2.1)
    durable_server.start()
    await other.open()
    early = await other.receive(10, 0)
    stats = await other.stats()
    await source.open()

    kept = [*await source.keep_alive([held])]
    await asyncio.sleep(1.2)
    kept += await source.keep_alive([held])
    late = await receive_all(other, 1)

    assert [] == early
    assert (0, 2) == (stats.ready, stats.in_flight)
    assert [] == kept
    assert [(lost.body, 2, 1)] == [(delivery.body, delivery.attempt, delivery.crashes) for delivery in late]
    assert [Settled.DONE] == await source.settle([held.ack()])


@pytest.mark.parametrize("is_idle", [True, False])
async def test_a_lost_claiming_connection_is_reported_until_reopened(
    own_server: RedisServer, open_source: SourceFactory, key: str, is_idle: bool
) -> None:
    """CLIENT KILL of the connection that waits: SourceUnavailable, each time, and well again after open()."""
    source = await open_source(own_server, key)
    await source.receive(1, 0)
    receiving = None
    if not is_idle:
        receiving = asyncio.create_task(source.receive(1, 20))
        await until(lambda: "1" == own_server.info("clients")["blocked_clients"])
    last_command = "cmd=evalsha" if is_idle else "cmd=blmove"
    victim = next(line for line in own_server.cli("CLIENT", "LIST").splitlines() if last_command in line)
    own_server.cli("CLIENT", "KILL", "ID", victim.split()[0].removeprefix("id="))

    for _ in range(2):
        with pytest.raises(SourceUnavailable):
            await asyncio.wait_for(receiving or source.receive(1, 1), 5)
        receiving = None
    await source.close()
    await source.open()
    await source.send(outgoing(b"x"))

    assert [b"x"] == bodies(await source.receive(1, 5))


async def test_a_lost_command_connection_is_reported_until_reopened(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """CLIENT KILL of the other connection: every call says SourceUnavailable, nothing reconnects in silence."""
    source = await open_source(own_server, key)
    await source.send(outgoing(b"x"))
    [delivery] = await source.receive(1, 1)
    own_server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    connected = own_server.info("stats")["total_connections_received"]
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: source.settle([delivery.ack()]),
        lambda: source.keep_alive([delivery]),
        lambda: source.send(outgoing(b"y")),
        source.stats,
        source.dead_letters,
        lambda: source.receive(1, 1),
    ]

    for call in calls:
        with pytest.raises(SourceUnavailable):
            await asyncio.wait_for(call(), 5)

    # Our own two look-ups have connected, nobody else.
    assert int(connected) + 1 == int(own_server.info("stats")["total_connections_received"])
    await source.close()
    await source.open()
    assert [Settled.DONE] == await source.settle([delivery.ack()])


async def test_close_is_bounded_while_the_server_hangs(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A receive that waits on a frozen server doesn't keep close() from ending, and ends itself."""
    source = await open_source(own_server, key, command_timeout=30)
    receiving = asyncio.create_task(source.receive(1, 20))
    await until(lambda: "1" == own_server.info("clients")["blocked_clients"])
    own_server.freeze()
    try:
        await asyncio.wait_for(source.close(), 8)
        with pytest.raises(SourceClosed):
            await asyncio.wait_for(receiving, 1)
        await source.close()
    finally:
        own_server.thaw()


async def test_a_source_is_used_between_open_and_close_only(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Before and after, every call says so; open() twice is refused; close() twice is not; it can be opened again."""
    source = RedisSource(key, RedisOptions.model_validate({"url": redis_server.url}))
    await source.close()
    with pytest.raises(SourceClosed) as before:
        await source.stats()
    await source.open()
    with pytest.raises(SourceClosed) as twice:
        await source.open()
    await source.close()
    await source.close()
    with pytest.raises(SourceClosed):
        await source.receive(1, 0)
    await source.open()
    await source.stats()
    await source.close()

    assert f"queue {key!r} is not open: call open() first" == str(before.value)
    assert f"queue {key!r} is open already: close() it first" == str(twice.value)


async def test_a_source_belongs_to_its_loop(redis_server: RedisServer, open_source: SourceFactory, key: str) -> None:
    """A call from another loop is refused before it can harm the connection."""
    source = await open_source(redis_server, key)

    def elsewhere() -> str:
        with pytest.raises(SourceClosed) as caught:
            asyncio.run(source.stats())
        return str(caught.value)

    text = await asyncio.to_thread(elsewhere)

    assert f"queue {key!r} belongs to the event loop that opened it, and was called from another one" == text
    assert 0 == (await source.stats()).ready
