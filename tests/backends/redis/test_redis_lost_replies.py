"""Claims whose reply never arrives come back while their worker lives on, at once and uncounted."""

from __future__ import annotations

import asyncio
import time

import pytest

from qbridge import Settled, SourceUnavailable
from qbridge.testing import TcpProxy
from qbridge_redis import RedisOptions, RedisSource
from qbridge_redis.scripts import Script, load_scripts
from tests.backends.redis.conftest import SourceFactory
from tests.backends.redis.steps import bodies, calls, outgoing, receive_all, until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


async def open_through(proxy: TcpProxy, key: str) -> RedisSource:
    """Open a source whose connections the proxy can cut."""
    source = RedisSource(key, RedisOptions.model_validate({"url": f"redis://127.0.0.1:{proxy.port}", "lease": "60s"}))
    await source.open()
    return source


def digest(script: Script) -> bytes:
    """What marks a call of this script on the wire."""
    return script.digest.encode()


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_a_claim_whose_reply_was_lost_is_given_back_on_reconnect(
    redis_server: RedisServer, key: str, is_waiting: bool
) -> None:
    """A connection cut between claim and reply leaves nothing to a lease of a minute, whichever way it claims."""
    with TcpProxy("127.0.0.1", redis_server.port) as proxy:
        source = await open_through(proxy, key)
        await source.send(outgoing(b"0"))
        [first] = await source.receive(10, 1)
        await source.settle([first.release() if not is_waiting else first.ack()])
        proxy.cut_reply_to(digest(load_scripts().claim))
        if not is_waiting:
            await source.send(outgoing(b"1", b"2"))
        receiving = asyncio.create_task(source.receive(10, 20))
        if is_waiting:
            redis_server.cli("LPUSH", key, "0", "1", "2")

        with pytest.raises(SourceUnavailable):
            await asyncio.wait_for(receiving, 5)
        held = int(redis_server.cli("ZCARD", f"{{{key}}}:qbridge:leases"))
        await source.close()
        await source.open()
        again = await receive_all(source, 3)

        assert 1 == proxy.cuts
        assert 3 == held
        assert [(b"0", 1, 0), (b"1", 1, 0), (b"2", 1, 0)] == [(d.body, d.attempt, d.crashes) for d in again]
        assert [Settled.DONE] * 3 == await source.settle([delivery.ack() for delivery in again])
        await source.close()


async def test_only_the_lost_claim_is_given_back(redis_server: RedisServer, key: str) -> None:
    """What the worker has in its hands stays there over a reconnect."""
    with TcpProxy("127.0.0.1", redis_server.port) as proxy:
        source = await open_through(proxy, key)
        await source.send(outgoing(b"held", b"lost"))
        [held] = await source.receive(1, 1)
        proxy.cut_reply_to(digest(load_scripts().claim))
        with pytest.raises(SourceUnavailable):
            await source.receive(1, 1)
        await source.close()
        await source.open()

        again = await source.receive(10, 1)

        assert [b"lost"] == bodies(again)
        assert [] == await source.keep_alive([held, *again])
        assert [Settled.DONE] == await source.settle([held.ack()])
        await source.close()


async def test_a_settlement_whose_reply_was_lost_may_be_repeated(redis_server: RedisServer, key: str) -> None:
    """The repetition ends as LOST or DONE, and the message is gone once."""
    with TcpProxy("127.0.0.1", redis_server.port) as proxy:
        source = await open_through(proxy, key)
        await source.send(outgoing(b"acked", b"retried"))
        acked, retried = await source.receive(2, 1)
        await source.settle([])
        proxy.cut_reply_to(digest(load_scripts().settle))
        # The first call may only teach the server the script.
        settlements = [acked.ack(), retried.retry(0, "failed")]
        with pytest.raises(SourceUnavailable):
            await source.settle(settlements)
        await source.close()
        await source.open()

        outcomes = await source.settle(settlements)
        again = await receive_all(source, 1)

        assert set(outcomes) <= {Settled.DONE, Settled.LOST}
        assert [(b"retried", 2)] == [(delivery.body, delivery.attempt) for delivery in again]
        assert 1 == (await source.stats()).in_flight
        await source.close()


async def test_a_frozen_server_is_noticed_in_time_and_its_late_claim_takes_nothing(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A claim that the server reads only after its worker gave it up doesn't keep messages from that worker."""
    source = await open_source(own_server, key, command_timeout=0.3, connect_timeout=0.3, lease=60)
    await source.receive(1, 0)
    await source.send(outgoing(b"1", b"2"))
    own_server.freeze()
    started = time.monotonic()
    try:
        with pytest.raises(SourceUnavailable) as claiming:
            await source.receive(10, 0)
        with pytest.raises(SourceUnavailable):
            await source.stats()
        await source.close()
        with pytest.raises(SourceUnavailable) as opening:
            await source.open()
        await source.close()
        elapsed = time.monotonic() - started
    finally:
        own_server.thaw()

    await source.open()
    again = await receive_all(source, 2)

    assert f"Redis at {own_server.url}, waiting for its answer: no answer within the time limit" == str(claiming.value)
    assert f"Redis at {own_server.url}, connecting: no answer within the time limit" == str(opening.value)
    assert elapsed < 10
    assert [(b"1", 1, 0), (b"2", 1, 0)] == [(d.body, d.attempt, d.crashes) for d in again]


async def test_a_claim_is_refused_once_its_caller_has_given_it_up(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """The server checks the claim's own deadline, so that the buffer of a dead connection can't take messages."""
    source = await open_source(own_server, key, command_timeout=0.3)
    await source.receive(1, 0)
    own_server.cli("LPUSH", key, "x")
    own_server.freeze()
    try:
        with pytest.raises(SourceUnavailable):
            await source.receive(10, 0)
    finally:
        own_server.thaw()

    # The claim was in the socket of a connection that is gone; the server reads it now.
    await until(lambda: calls(own_server).get("evalsha", 0) >= 2)

    assert "1" == own_server.cli("LLEN", key)
    assert "0" == own_server.cli("EXISTS", f"{{{key}}}:qbridge:leases")


async def test_a_message_moved_for_a_worker_that_died_is_taken_by_another(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """What a block has moved and no claim has followed is still ready, and older than the list."""
    source = await open_source(redis_server, key)
    redis_server.cli("LPUSH", key, "1", "2")
    redis_server.cli("LMOVE", key, f"{{{key}}}:qbridge:arrived", "RIGHT", "LEFT")

    stats = await source.stats()
    deliveries = await source.receive(10, 1)

    assert (2, b"1") == (stats.ready, stats.oldest_body)
    assert [b"1", b"2"] == bodies(deliveries)
