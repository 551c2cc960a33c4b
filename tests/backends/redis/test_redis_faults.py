"""What a Redis server may do to a queue: restart, forget, refuse, hang up. Each time the contract's error, or none."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qbridge import (
    Delivery,
    QBridgeError,
    Settled,
    SourceClosed,
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


async def test_no_server_is_unavailable() -> None:
    """A refused connection says where, and that trying again may help."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

        text = await refusal({"url": f"redis://ann:hunter2@127.0.0.1:{port}/2"}, SourceUnavailable)

    assert text.startswith(
        f"Redis at redis://127.0.0.1:{port}/2, connecting: Error 111 connecting to 127.0.0.1:{port}."
    )
    assert "hunter2" not in text


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

    assert (None, None) == (state.append_only, state.uptime)


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


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that nobody has signed, and its key."""
    certificate, private_key = tmp_path / "cert.pem", tmp_path / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*request, *names, "-keyout", private_key, "-out", certificate], check=True, capture_output=True, timeout=30
    )
    return certificate, private_key


async def test_a_queue_is_reached_over_tls_and_over_a_unix_socket(
    open_source: SourceFactory, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """`rediss://` verifies the certificate unless told not to; `unix://` needs no port."""
    authority, private_key = certificate
    path = tmp_path / "redis.sock"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    options = ["--tls-cert-file", str(authority), "--tls-key-file", str(private_key), "--tls-auth-clients", "no"]
    with RedisServer(arguments=("--tls-port", str(port), *options, "--unixsocket", str(path))) as server:
        url = f"rediss://127.0.0.1:{port}"
        unverified = await refusal({"url": url}, SourceMisconfigured)
        received: list[Delivery] = []
        for form in (f"{url}?ssl_ca_certs={authority}", f"{url}?ssl_cert_reqs=none", f"unix://{path}"):
            source = await open_source(server, "orders", url=form)
            await source.send(outgoing(b"x"))
            received += await source.receive(1, 1)
            await source.close()

    assert (
        f"Redis at {url}/0, connecting: its certificate can't be verified: self-signed certificate (name its authority "
        "with ?ssl_ca_certs=… in the url)"
    ) == unverified  # fmt: skip
    assert [b"x"] * 3 == bodies(received)
