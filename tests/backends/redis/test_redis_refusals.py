"""Servers that refuse a source, and servers that a source refuses: each with an error that says what to do."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from qbridge import (
    QBridgeError,
    Settled,
    SourceError,
    SourceMisconfigured,
    SourceUnavailable,
)
from qbridge_redis import RedisOptions, RedisSource
from qbridge_redis.server import check_server, parse_info
from tests.backends.redis.conftest import SourceFactory
from tests.backends.redis.steps import bodies, outgoing, receive_all, until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


async def refusal(options: dict[str, object], kind: type[QBridgeError]) -> str:
    """Try to open a source; return the text of the error, which is of exactly this kind and has a cause or none."""
    source = RedisSource("orders", RedisOptions.model_validate(options))
    with pytest.raises(kind) as caught:
        await source.open()
    assert kind is type(caught.value)
    await source.close()
    return str(caught.value)


async def test_no_server_is_unavailable() -> None:
    """A refused connection says where, and that trying again may help."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

        text = await refusal({"url": f"redis://ann:hunter2@127.0.0.1:{port}/2"}, SourceUnavailable)

    assert text.startswith(f"Redis at redis://127.0.0.1:{port}/2, connecting: [Errno 111] Connect")
    assert "hunter2" not in text


async def test_a_server_of_another_kind_is_unavailable() -> None:
    """Who answers with something else than Redis's protocol is told of as such."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        text = await refusal({"url": f"redis://127.0.0.1:{port}/0"}, SourceUnavailable)

    assert text.startswith(f"Redis at redis://127.0.0.1:{port}/0, connecting: it doesn't speak the protocol of Redis: ")


async def test_a_wrong_or_missing_password_is_misconfigured(open_source: SourceFactory) -> None:
    """The error names the server and what it says, never the password."""
    with RedisServer(arguments=("--requirepass", "right"), password="right") as server:
        wrong = await refusal({"url": server.url, "password": "hunter2"}, SourceMisconfigured)
        missing = await refusal({"url": server.url}, SourceMisconfigured)
        source = await open_source(server, "orders", password="right")
        stats = await source.stats()

    said = "it refuses the user name or the password, or wants one"
    assert f"Redis at {server.url}, connecting: {said}: invalid username-password pair or user is disabled." == wrong
    assert missing.startswith(f"Redis at {server.url}, ")
    assert missing.endswith(f": {said}: Authentication required.")
    assert 0 == stats.ready


async def test_a_password_where_none_is_wanted_is_misconfigured(redis_server: RedisServer) -> None:
    """Redis refuses it; so do we."""
    text = await refusal({"url": redis_server.url, "password": "hunter2"}, SourceMisconfigured)

    assert text.startswith(
        f"Redis at {redis_server.url}, connecting: it refuses the user name or the password, or wants"
    )
    assert "hunter2" not in text


async def test_a_database_that_does_not_exist_is_misconfigured(redis_server: RedisServer) -> None:
    """A server with 16 databases has no 99."""
    text = await refusal({"url": redis_server.url_of(99)}, SourceMisconfigured)

    assert (
        f"Redis at {redis_server.url_of(99)}, connecting: it refuses what was configured: DB index is out of range"
        == text.replace("ERR ", "")
    )


async def test_a_key_of_another_type_is_misconfigured(redis_server: RedisServer, key: str) -> None:
    """The error names the key and the type that was found."""
    redis_server.cli("SET", key, "text")

    text = await refusal({"url": redis_server.url, "key": key}, SourceMisconfigured)

    assert (
        f"Redis at {redis_server.url}: the key {key!r} of queue 'orders' is a string, not a list: give the queue "
        "another key"
    ) == text


async def test_a_key_that_changes_its_type_is_misconfigured(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Whatever is called then says so, and messages that are elsewhere can still be claimed."""
    source = await open_source(redis_server, key)
    await source.send(outgoing(b"x"))
    [delivery] = await source.receive(1, 1)
    redis_server.cli("SET", key, "text")
    await source.settle([delivery.release()])

    again = await source.receive(5, 1)
    for wait in (0, 1):
        with pytest.raises(SourceMisconfigured):
            await source.receive(5, wait)
    with pytest.raises(SourceMisconfigured) as sending:
        await source.send(outgoing(b"y"))

    assert [b"x"] == bodies(again)
    assert (
        f"Redis at {redis_server.url}, LPUSH: a key of the queue holds another type than a list: give the queue "
        "another key, or move that one away"
    ) == str(sending.value)


async def test_a_server_that_may_evict_the_queue_is_refused(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """allkeys-* with a limit deletes messages; without a limit, with volatile-* or if accepted, it's fine."""
    own_server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await open_source(own_server, key)
    own_server.cli("CONFIG", "SET", "maxmemory", "100mb")
    text = await refusal({"url": own_server.url}, SourceMisconfigured)
    await open_source(own_server, key, unsafe_eviction=True)
    own_server.cli("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    await open_source(own_server, key)

    assert (
        f"Redis at {own_server.url} has maxmemory-policy allkeys-lru: when its memory is full, it deletes waiting "
        "messages; set it to noeviction, or accept the loss with unsafe_eviction: true"
    ) == text


async def test_a_server_without_append_only_file_is_told_of_once(
    open_source: SourceFactory, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue works, says that it isn't durable, and the log warns at the first opening only."""
    with caplog.at_level(logging.WARNING), RedisServer(append_only=False) as server:
        source = await open_source(server, key)
        await source.close()
        await source.open()

    assert not source.capabilities.durable
    assert ["redis keeps no append-only file: messages are lost when it stops; set appendonly yes"] == [
        record.message for record in caplog.records
    ]


async def test_a_replica_is_unavailable(own_server: RedisServer, open_source: SourceFactory, key: str) -> None:
    """After a failover the old master refuses writes: calls and openings say SourceUnavailable."""
    source = await open_source(own_server, key)
    await source.send(outgoing(b"x"))
    own_server.cli("REPLICAOF", "127.0.0.1", "1")

    with pytest.raises(SourceUnavailable) as sending:
        await source.send(outgoing(b"y"))
    with pytest.raises(SourceUnavailable):
        await source.receive(1, 1)
    opening = await refusal({"url": own_server.url}, SourceUnavailable)

    assert f"Redis at {own_server.url}, LPUSH: it is a read-only replica" == str(sending.value)
    assert f"Redis at {own_server.url} is a read-only replica" == opening


@pytest.mark.parametrize(
    "info, kind, text",
    [
        (
            "redis_version:6.2.14\r\n",
            SourceMisconfigured,
            "Redis at here is version 6.2.14; the queue needs 7.0 or later, or Valkey: upgrade it",
        ),
        ("redis_version:7.0.15\r\nloading:1\r\n", SourceUnavailable, "Redis at here is loading its data"),
        ("redis_version:7.0.15\r\nrole:slave\r\n", SourceUnavailable, "Redis at here is a read-only replica"),
    ],
)
def test_a_server_unfit_for_a_queue_is_refused(info: str, kind: type[SourceError], text: str) -> None:
    """Too old a version, a server that still loads, a replica."""
    with pytest.raises(kind) as caught:
        check_server(parse_info(info), "here", unsafe_eviction=False)

    assert text == str(caught.value)


@pytest.mark.parametrize(
    "info", ["", "redis_version:7.2.4\r\nserver_name:valkey\r\n", "redis_version:255.255.255\r\n", "maxmemory:\r\n"]
)
def test_a_server_that_tells_little_is_accepted(info: str) -> None:
    """Managed servers leave things out, and Valkey tells an old version of Redis for good."""
    state = parse_info(info)

    check_server(state, "here", unsafe_eviction=False)

    assert (None, None, "") == (state.append_only, state.uptime, state.run_id)


async def test_the_rights_in_the_error_text_are_enough(
    open_source: SourceFactory, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with just these rights on just the queue's keys can do everything; without them, the error lists them."""
    with RedisServer() as server:
        rights = ["+@read", "+@write", "+@scripting", "+blmove", "+client|id", "+client|unblock", "+info", "+time"]
        server.cli("ACL", "SETUSER", "worker", "on", ">secret", "resetkeys", f"~{key}", f"~{{{key}}}:*", *rights)
        server.cli("ACL", "SETUSER", "stranger", "on", ">secret", "+info", "+time", "+type", "~*")
        source = await open_source(server, key, username="worker", password="secret")
        await source.send([*outgoing(b"1", b"2", b"3"), *outgoing(b"4", delay=0.01)])
        one, two, three, four = await receive_all(source, 4)
        await source.keep_alive([four])
        outcomes = await source.settle([one.ack(), two.retry(0), three.dead_letter("rejected"), four.release()])
        redriven = await source.redrive()
        again = await receive_all(source, 3)
        monkeypatch.setattr("qbridge_redis.receiver._LONGEST_BLOCK", 30.0)
        waiting = asyncio.create_task(source.receive(1, 20))
        await until(lambda: "1" == server.info("clients")["blocked_clients"])
        source.wake()
        woken = await asyncio.wait_for(waiting, 5)
        stranger = await open_source(server, key, username="stranger", password="secret")
        with pytest.raises(SourceMisconfigured) as caught:
            await stranger.send(outgoing(b"x"))
        with pytest.raises(SourceMisconfigured):
            await stranger.receive(1, 1)

    assert [Settled.DONE] * 4 == outcomes
    assert (1, 3, []) == (redriven, len(again), woken)
    assert (
        f"Redis at {server.url}, LPUSH: its ACL forbids this user what the queue needs: on the queue's keys, allow "
        f"{' '.join(rights)}"
    ) == str(caught.value)


async def test_a_command_that_is_forbidden_within_a_script_is_for_a_person(
    open_source: SourceFactory, key: str
) -> None:
    """A user who may call scripts, but not all that they do, is told so, instead of being tried again for ever."""
    with RedisServer() as server:
        server.cli("ACL", "SETUSER", "clerk", "on", ">secret", "~*", "+@all", "-zrange")
        source = await open_source(server, key, username="clerk", password="secret")

        with pytest.raises(SourceMisconfigured, match="its ACL forbids this user what the queue needs"):
            await source.receive(1, 0.1)


async def test_a_queue_is_reached_over_a_unix_socket(open_source: SourceFactory, tmp_path: Path) -> None:
    """`unix://` needs no port."""
    path = tmp_path / "redis.sock"
    with RedisServer(arguments=("--unixsocket", str(path))) as server:
        source = await open_source(server, "orders", url=f"unix://{path}")
        await source.send(outgoing(b"x"))

        received = await source.receive(1, 1)

    assert [b"x"] == bodies(received)
