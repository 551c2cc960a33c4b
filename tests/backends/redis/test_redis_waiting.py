"""Waiting for messages: at once for what is pushed, without polling, and ended by wake() and by cancelling."""

from __future__ import annotations

import asyncio
import time

import pytest

from qbridge import Settled, SourceFull
from qbridge.testing import TcpProxy
from qbridge_redis import RedisOptions, RedisSource
from qbridge_redis.scripts import load_scripts
from tests.backends.redis.conftest import SourceFactory
from tests.backends.redis.steps import bodies, calls, outgoing, receive_all, until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture
def never_look_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting workers don't look for what others returned, so that only what should end a wait can end it."""
    monkeypatch.setattr("qbridge_redis.receiver._LONGEST_BLOCK", 30.0)


async def start_waiting(server: RedisServer, source: RedisSource) -> asyncio.Task[list[bytes]]:
    """Start a receive and return once the server has blocked it."""

    async def receive() -> list[bytes]:
        return bodies(await source.receive(10, 20))

    task = asyncio.create_task(receive())
    await until(lambda: "1" == server.info("clients")["blocked_clients"])
    return task


async def test_an_idle_worker_sends_a_handful_of_commands(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """While nothing comes, a worker blocks on the server; it looks for what others returned about once a second."""
    source = await open_source(own_server, key)
    await source.receive(10, 0)
    own_server.cli("CONFIG", "RESETSTAT")

    received = await source.receive(10, 2.5)

    counted = calls(own_server)
    assert [] == received
    assert {"evalsha", "blmove", "client|unblock"} >= set(counted) - {"time", "zrange", "rpop", "config|resetstat"}
    assert counted["evalsha"] <= 4
    assert counted["blmove"] <= 4


async def test_a_lone_message_costs_one_round_trip_of_the_waiting_worker(
    own_server: RedisServer, open_source: SourceFactory, key: str, never_look_around: None
) -> None:
    """The claim stands behind the blocking command already: nothing is sent between the push and the delivery."""
    source = await open_source(own_server, key)
    await source.receive(10, 0)
    waiting = await start_waiting(own_server, source)
    own_server.cli("CONFIG", "RESETSTAT")

    own_server.cli("LPUSH", key, "x")

    assert [b"x"] == await asyncio.wait_for(waiting, 5)
    counted = calls(own_server)
    assert 1 == counted["evalsha"]
    # Redis counts a block when it begins, Valkey when it ends.
    assert counted.get("blmove", 0) <= 1


async def test_a_push_ends_the_wait_long_before_its_time(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A waiting worker is woken by the list itself, by whomever the message comes from."""
    source = await open_source(own_server, key)
    for number in range(5):
        waiting = await start_waiting(own_server, source)
        own_server.cli("LPUSH", key, number)

        assert [b"%d" % number] == await asyncio.wait_for(waiting, 5)


async def test_one_message_wakes_one_of_several_workers(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Idle workers don't all run for one message, and each message finds one."""
    sources = [await open_source(own_server, key) for _ in range(4)]
    tasks = [asyncio.create_task(source.receive(10, 20)) for source in sources]
    await until(lambda: "4" == own_server.info("clients")["blocked_clients"])

    own_server.cli("LPUSH", key, "1")
    done, waiting = await asyncio.wait(tasks, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    for source in sources:
        source.wake()
    rest = await asyncio.wait_for(asyncio.gather(*waiting), 5)

    assert [[b"1"]] == [bodies(task.result()) for task in done]
    assert [[], [], []] == [list(deliveries) for deliveries in rest]


async def test_wake_ends_a_wait(
    own_server: RedisServer, open_source: SourceFactory, key: str, never_look_around: None
) -> None:
    """A worker that drains or pauses needn't wait for a message."""
    source = await open_source(own_server, key)
    waiting = await start_waiting(own_server, source)

    source.wake()

    assert [] == await asyncio.wait_for(waiting, 5)


async def test_wake_counts_for_the_next_wait(own_server: RedisServer, open_source: SourceFactory, key: str) -> None:
    """A wake that comes too early isn't lost, one that was used isn't used again, and messages are still taken."""
    source = await open_source(own_server, key)
    source.wake()
    source.wake()
    first = await asyncio.wait_for(source.receive(10, 20), 5)
    source.wake()
    await source.send(outgoing(b"x"))
    second = await asyncio.wait_for(source.receive(10, 20), 5)
    started = time.monotonic()
    third = await asyncio.wait_for(source.receive(10, 0.3), 5)

    assert [] == first
    assert [b"x"] == bodies(second)
    assert [] == third
    assert time.monotonic() - started >= 0.3


async def test_wake_before_the_server_blocks_ends_the_wait(
    redis_server: RedisServer, open_source: SourceFactory, key: str, never_look_around: None
) -> None:
    """Wherever between its first step and the block a receive is, a wake reaches it."""
    source = await open_source(redis_server, key)
    await source.receive(10, 0)
    for steps in range(30):
        waiting = asyncio.create_task(source.receive(10, 20))
        for _ in range(steps):
            await asyncio.sleep(0)

        source.wake()

        assert [] == await asyncio.wait_for(waiting, 5)


async def test_wake_overtaking_the_block_ends_the_wait(
    own_server: RedisServer, key: str, never_look_around: None
) -> None:
    """On its other connection a wake may arrive before the block that it is to end: it tries again."""
    with TcpProxy("127.0.0.1", own_server.port) as proxy:
        source = RedisSource(key, RedisOptions.model_validate({"url": f"redis://127.0.0.1:{proxy.port}"}))
        await source.open()
        await source.receive(10, 0)
        proxy.hold_request(b"BLMOVE")
        waiting = asyncio.create_task(source.receive(10, 20))
        await asyncio.sleep(0)
        source.wake()
        await until(lambda: calls(own_server).get("client|unblock", 0) >= 2)

        proxy.restore()

        assert [] == await asyncio.wait_for(waiting, 5)
        await source.close()


async def test_what_others_delayed_ends_the_wait_when_it_falls_due(
    own_server: RedisServer, open_source: SourceFactory, key: str, never_look_around: None
) -> None:
    """A claim that finds nothing learns when the next delayed message falls due, and when the next lease lapses."""
    other = await open_source(own_server, key, lease=1)
    source = await open_source(own_server, key, lease=1)
    await other.send(outgoing(b"delayed", delay=0.3))

    delayed = await asyncio.wait_for(source.receive(10, 20), 5)
    lapsed = await asyncio.wait_for(other.receive(10, 20), 5)

    assert [(b"delayed", 1, 0)] == [(d.body, d.attempt, d.crashes) for d in delayed]
    assert [(b"delayed", 2, 1)] == [(d.body, d.attempt, d.crashes) for d in lapsed]


async def test_what_falls_due_ends_the_wait(
    own_server: RedisServer, open_source: SourceFactory, key: str, never_look_around: None
) -> None:
    """A worker that waits already sees a retry of its own and a delayed send of its own when they fall due."""
    source = await open_source(own_server, key)
    await source.send(outgoing(b"x"))
    [delivery] = await source.receive(10, 1)
    waiting = await start_waiting(own_server, source)
    await source.settle([delivery.retry(0.1, "failed")])
    retried = await asyncio.wait_for(waiting, 5)
    waiting = await start_waiting(own_server, source)
    started = time.monotonic()
    await source.send(outgoing(b"y", delay=0.3))
    delayed = await asyncio.wait_for(waiting, 5)

    assert [b"x"] == retried
    assert [b"y"] == delayed
    assert time.monotonic() - started >= 0.3


async def test_what_was_returned_while_a_claim_was_on_its_way_ends_the_wait(
    own_server: RedisServer, key: str, never_look_around: None
) -> None:
    """A claim that ran before a retry and is answered after it doesn't make the worker forget when that falls due."""
    with TcpProxy("127.0.0.1", own_server.port) as proxy:
        source = RedisSource(key, RedisOptions.model_validate({"url": f"redis://127.0.0.1:{proxy.port}"}))
        await source.open()
        await source.send(outgoing(b"x"))
        [delivery] = await source.receive(1, 1)
        await source.settle([delivery.release()])
        [delivery] = await source.receive(1, 1)
        own_server.cli("CONFIG", "RESETSTAT")
        proxy.hold_reply_to(load_scripts().claim.digest.encode())
        waiting = asyncio.create_task(source.receive(1, 20))
        await until(lambda: calls(own_server).get("evalsha", 0) == 1)
        await source.settle([delivery.retry(0.2)])

        proxy.restore()

        assert [b"x"] == bodies(await asyncio.wait_for(waiting, 5))
        await source.close()


async def test_what_another_worker_returns_ends_the_wait(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Releases, due retries, redriven dead letters and lapsed leases of others reach an idle worker."""
    other = await open_source(own_server, key, lease=2)
    source = await open_source(own_server, key, lease=2)
    await other.send(outgoing(b"released", b"retried", b"dead", b"lapsed"))
    released, retried, dead, _ = await other.receive(4, 1)
    waiting = asyncio.create_task(receive_all(source, 4))
    await until(lambda: "1" == own_server.info("clients")["blocked_clients"])

    await other.settle([released.release(), retried.retry(0.3), dead.dead_letter("rejected")])
    await other.redrive()

    assert [b"dead", b"lapsed", b"released", b"retried"] == sorted(bodies(await waiting))


async def test_a_cancelled_wait_loses_and_counts_nothing(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A hundred times, a receive is cancelled around the moment in which its message arrives."""
    source = await open_source(redis_server, key)
    producer = await open_source(redis_server, key)
    for number in range(100):
        receiving = asyncio.create_task(source.receive(10, 20))
        sending = asyncio.create_task(producer.send(outgoing(b"%d" % number)))
        for _ in range(number % 25):
            await asyncio.sleep(0)
        if number % 4 == 0:
            await sending
        receiving.cancel()
        [seen] = await asyncio.gather(receiving, return_exceptions=True)
        await sending

        if isinstance(seen, BaseException):
            seen = await asyncio.wait_for(source.receive(10, 20), 5)

        [delivery] = seen
        assert (b"%d" % number, 1, 0) == (delivery.body, delivery.attempt, delivery.crashes)
        await source.settle([delivery.ack()])
    stats = await source.stats()
    assert (0, 0, 0) == (stats.ready, stats.delayed, stats.in_flight)


async def test_a_cancelled_wait_leaves_its_message_to_other_workers(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Nobody has to call the cancelled source again."""
    cancelled = await open_source(own_server, key)
    other = await open_source(own_server, key)
    waiting = await start_waiting(own_server, cancelled)

    waiting.cancel()
    own_server.cli("LPUSH", key, "x")

    [delivery] = await asyncio.wait_for(other.receive(10, 20), 5)
    assert (b"x", 1) == (delivery.body, delivery.attempt)


async def test_closing_gives_back_what_a_cancelled_wait_claimed(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A source that is closed right after a cancel leaves nothing to its lease."""
    other = await open_source(redis_server, key)
    for steps in range(1, 20):
        source = await open_source(redis_server, key)
        await other.send(outgoing(b"x"))
        receiving = asyncio.create_task(source.receive(10, 20))
        for _ in range(steps):
            await asyncio.sleep(0)
        receiving.cancel()
        [seen] = await asyncio.gather(receiving, return_exceptions=True)
        await source.close()

        deliveries = seen if isinstance(seen, list) else await other.receive(10, 5)

        assert [(b"x", 1)] == [(delivery.body, delivery.attempt) for delivery in deliveries]
        assert 1 == (await other.stats()).in_flight
        await other.settle([delivery.ack() for delivery in deliveries])


async def test_a_full_server_refuses_messages_and_is_still_drained(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """With its memory used up, a server takes nothing more, while workers claim, retry, bury, renew and acknowledge."""
    source = await open_source(own_server, key)
    await source.send(outgoing(*[b"x" * 1000] * 200))
    own_server.cli("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(SourceFull) as plain:
        await source.send(outgoing(b"y"))
    with pytest.raises(SourceFull):
        await source.send(outgoing(b"y", delay=1))

    first = await source.receive(100, 1)
    waiting = await receive_all(source, 100)
    kept = await source.keep_alive(waiting)
    outcomes = [
        *await source.settle(
            [first[0].retry(0, "failed"), first[1].release(), first[2].dead_letter("rejected")]
            + [delivery.ack() for delivery in [*first[3:], *waiting]]
        )
    ]
    again = await receive_all(source, 2)
    outcomes += await source.settle([delivery.ack() for delivery in again])
    redriven = await source.redrive()
    [last] = await receive_all(source, 1)
    outcomes += await source.settle([last.ack()])

    assert f"Redis at {own_server.url}, LPUSH: its memory is full: raise its maxmemory, or let workers drain it" == str(
        plain.value
    )
    assert [] == kept
    assert [Settled.DONE] * 203 == outcomes
    assert 1 == redriven
    stats = await source.stats()
    assert (0, 0, 0, 0) == (stats.ready, stats.delayed, stats.in_flight, stats.dead)


async def test_waiting_on_a_full_server_pauses_and_ends_in_time(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A server that refuses to block is looked at a few times a second, never in a spin, and wake() works."""
    source = await open_source(own_server, key)
    own_server.cli("CONFIG", "SET", "maxmemory", "1")
    await source.receive(10, 0)
    own_server.cli("CONFIG", "RESETSTAT")
    started = time.monotonic()

    received = await source.receive(10, 1)
    counted = calls(own_server)
    waiting = asyncio.create_task(source.receive(10, 20))
    await asyncio.sleep(0.15)
    source.wake()

    assert [] == received
    assert counted["evalsha"] <= 15
    assert [] == await asyncio.wait_for(waiting, 5)
    assert time.monotonic() - started >= 1
