"""TLS to a real redis-server: what works, and what each wrong way to configure it is told."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qbridge import SourceError, SourceMisconfigured, SourceUnavailable
from qbridge_redis import RedisOptions, RedisSource
from tests.backends.redis.conftest import SourceFactory
from tests.backends.redis.steps import bodies, outgoing
from tests.backends.services import refused_worker, serve_one_task
from tests.support.certificates import Authority, Certificate
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A server with a plain port and one for TLS."""

    server: RedisServer
    port: int

    def url(self, host: str = "127.0.0.1", **options: object) -> str:
        """Its `rediss://` URL with these options."""
        return f"rediss://{host}:{self.port}/0?{'&'.join(f'{name}={value}' for name, value in options.items())}"


def encrypted(certificate: Certificate, *more: str) -> Encrypted:
    """A server, not started, that speaks TLS with this certificate."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    files = ("--tls-cert-file", str(certificate.chain), "--tls-key-file", str(certificate.key))
    return Encrypted(RedisServer(arguments=("--tls-port", str(port), *files, *more)), port)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who has signed the servers' certificates, and the clients'."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority, whom no server trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def broker(authority: Authority, _redis_server_is_installed: None) -> Iterator[Encrypted]:
    """A server whose certificate names 127.0.0.1 only, and that asks no client for one."""
    broker = encrypted(authority.issue("127.0.0.1"), "--tls-auth-clients", "no")
    with broker.server:
        yield broker


@pytest.fixture(scope="module")
def strict_broker(authority: Authority, _redis_server_is_installed: None) -> Iterator[Encrypted]:
    """A server that wants a certificate of each client."""
    broker = encrypted(authority.issue("127.0.0.1"), "--tls-ca-cert-file", str(authority.file))
    with broker.server:
        yield broker


async def refusal(url: str, **options: Any) -> str:
    """Return what SourceMisconfigured says, within seconds, about a source that can't be opened."""
    source = RedisSource("orders", RedisOptions.model_validate({"url": url, **options}))
    began = time.monotonic()
    with pytest.raises(SourceMisconfigured) as caught:
        await source.open()
    assert time.monotonic() - began < 8
    await source.close()
    return str(caught.value)


async def test_a_queue_works_over_tls(broker: Encrypted, authority: Authority, open_source: SourceFactory) -> None:
    """With the authority named, messages are sent, claimed, retried and acknowledged, over the TLS port alone."""
    source = await open_source(broker.server, "orders", url=broker.url(ssl_ca_certs=authority.file))

    await source.send(outgoing(b"1", b"2"))
    first, second = await source.receive(2, 1)
    await source.settle([first.ack(), second.retry(0)])
    again = await source.receive(2, 1)
    await source.settle([delivery.ack() for delivery in again])
    clients = await asyncio.to_thread(broker.server.cli, "CLIENT", "LIST")

    assert [b"2"] == bodies(again)
    assert {f"laddr=127.0.0.1:{broker.port}"} == {
        word for line in clients.splitlines() if "redis-cli" not in line and "cmd=client" not in line
        for word in line.split() if word.startswith("laddr=")
    }  # fmt: skip
    assert 0 == (await source.stats()).ready


def test_a_service_works_over_tls(broker: Encrypted, authority: Authority, tmp_path: Path) -> None:
    """`qbridge send` and `qbridge run` with a `rediss://` URL: the task runs and the worker leaves with 0."""
    queue = {"backend": "redis", "url": broker.url(ssl_ca_certs=authority.file), "key": "service"}

    end = serve_one_task(tmp_path, queue)

    assert (0, ["hello over 1"]) == (end.code, end.printed)


def test_a_worker_that_trusts_nobody_leaves(broker: Encrypted, tmp_path: Path) -> None:
    """A certificate of an unknown authority ends `qbridge run` with 78 and the way out; it doesn't try for ever."""
    end = refused_worker(tmp_path, {"backend": "redis", "url": broker.url()})

    assert 78 == end.code
    assert "name its authority with ?ssl_ca_certs=…" in end.told


async def test_an_unknown_authority_is_told(broker: Encrypted, stranger: Authority) -> None:
    """A certificate that nobody known has signed: the error says how to name who has."""
    texts = [await refusal(broker.url()), await refusal(broker.url(ssl_ca_certs=stranger.file))]

    said = f"Redis at {broker.url().rstrip('?')}, connecting: its certificate can't be verified: "
    assert [said] * 2 == [text[: len(said)] for text in texts]
    assert [True] * 2 == [text.endswith("(name its authority with ?ssl_ca_certs=… in the url)") for text in texts]


async def test_a_wrong_host_name_is_told(broker: Encrypted, authority: Authority, open_source: SourceFactory) -> None:
    """A certificate for another host is refused with both names, unless the URL says not to look at it."""
    text = await refusal(broker.url("localhost", ssl_ca_certs=authority.file))
    unchecked = broker.url("localhost", ssl_ca_certs=authority.file, ssl_check_hostname="false")
    await open_source(broker.server, "orders", url=unchecked)

    assert "Hostname mismatch, certificate is not valid for 'localhost'" in text
    assert text.endswith("(give the url a host that the certificate names)")


async def test_an_expired_certificate_is_told(authority: Authority) -> None:
    """The error says that it has expired, and to renew it."""
    broker = encrypted(authority.issue("127.0.0.1", is_expired=True), "--tls-auth-clients", "no")
    with broker.server:
        text = await refusal(broker.url(ssl_ca_certs=authority.file))

    assert text.endswith("can't be verified: certificate has expired (renew it, or correct the clock)")


async def test_a_plain_client_at_a_tls_port_is_told(broker: Encrypted) -> None:
    """The server just hangs up; the error says which scheme to write."""
    text = await refusal(f"redis://127.0.0.1:{broker.port}/0")

    assert f"Redis at redis://127.0.0.1:{broker.port}/0, connecting: it speaks TLS there: write rediss://" == text


async def test_a_tls_client_at_a_plain_port_is_told(broker: Encrypted) -> None:
    """The server waits for the end of a line that never comes; the error says what to write."""
    url = f"rediss://127.0.0.1:{broker.server.port}/0"

    text = await refusal(url, connect_timeout=1)

    assert f"Redis at {url}, connecting: it speaks no TLS there: give the url its TLS port, or write redis://" == text


async def test_a_client_certificate_is_shown(
    strict_broker: Encrypted, authority: Authority, open_source: SourceFactory
) -> None:
    """A server that wants the client's certificate gets it, on both connections."""
    own = authority.issue("worker@example.org")
    url = strict_broker.url(ssl_ca_certs=authority.file, ssl_certfile=own.chain, ssl_keyfile=own.key)
    source = await open_source(strict_broker.server, "orders", url=url)

    await source.send(outgoing(b"x"))

    assert [b"x"] == bodies(await source.receive(1, 1))


async def test_a_missing_client_certificate_is_told(
    strict_broker: Encrypted, authority: Authority, stranger: Authority
) -> None:
    """The server hangs up on a client without a certificate, or with one that it doesn't trust: both are told."""
    other = stranger.issue("worker@example.org")
    untrusted = strict_broker.url(ssl_ca_certs=authority.file, ssl_certfile=other.chain, ssl_keyfile=other.key)

    missing = await refusal(strict_broker.url(ssl_ca_certs=authority.file))
    refused = await refusal(untrusted)

    name = "with ssl_certfile=… and ssl_keyfile=… in the url"
    assert missing.endswith(f"it wants a client's certificate that it trusts: name one {name}")
    assert refused.endswith(f"it refuses the client's certificate (TLSV1_ALERT_UNKNOWN_CA): name another {name}")


async def test_files_that_cannot_be_used_are_told(authority: Authority, tmp_path: Path) -> None:
    """Missing, foreign and mixed-up files are named by their option, before anything connects."""
    one, two = authority.issue("a@example.org"), authority.issue("b@example.org")
    connected: list[asyncio.StreamWriter] = []
    anybody = await asyncio.start_server(lambda _, writer: connected.append(writer), "127.0.0.1", 0)
    url = f"rediss://127.0.0.1:{anybody.sockets[0].getsockname()[1]}/0?"
    wrong = {
        f"ssl_ca_certs={tmp_path}/none.pem": "ssl_ca_certs can't be used: ",
        f"ssl_ca_certs={one.key}": "ssl_ca_certs can't be used: ",
        f"ssl_certfile={tmp_path}/none.pem": "ssl_certfile or ssl_keyfile can't be used: ",
        f"ssl_certfile={one.chain}&ssl_keyfile={two.key}": "ssl_certfile or ssl_keyfile can't be used: ",
        f"ssl_keyfile={one.key}": "ssl_keyfile needs ssl_certfile",
        "ssl_ciphers=NONE-SUCH": "ssl_ciphers can't be used: ",
    }

    async with anybody:
        said = {options: await refusal(url + options) for options in wrong}

    assert [] == [text for options, text in said.items() if wrong[options] not in text]
    assert [] == connected


async def is_unavailable(url: str) -> bool:
    """Return whether a source can't be opened and trying again may help."""
    source = RedisSource("orders", RedisOptions.model_validate({"url": url, "connect_timeout": 0.5}))
    with pytest.raises(SourceError) as caught:
        await source.open()
    return type(caught.value) is SourceUnavailable


async def test_a_fault_that_passes_is_not_taken_for_a_wrong_scheme(authority: Authority) -> None:
    """A server that is frozen or away, or hangs up on everybody, may be well again: that is SourceUnavailable."""
    broker = encrypted(authority.issue("127.0.0.1"), "--tls-auth-clients", "no")
    urls = (broker.url(ssl_ca_certs=authority.file), broker.server.url, f"redis://127.0.0.1:{broker.port}/0")
    with broker.server:
        broker.server.freeze()
        frozen = [await is_unavailable(url) for url in urls]
        broker.server.thaw()
    away = [await is_unavailable(url) for url in urls]
    rude = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1", 0)
    async with rude:
        port = rude.sockets[0].getsockname()[1]
        cut = [await is_unavailable(f"{scheme}://127.0.0.1:{port}/0") for scheme in ("redis", "rediss")]

    assert ([True] * 3, [True] * 3, [True] * 2) == (frozen, away, cut)
