"""TLS to a real RabbitMQ: what works, and what each wrong way to configure it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qbridge import SourceError, SourceMisconfigured, SourceUnavailable
from qbridge_rabbitmq import RabbitOptions, RabbitSource
from tests.backends.rabbitmq.conftest import SourceFactory
from tests.backends.rabbitmq.steps import claim, outgoing, promptly
from tests.backends.services import refused_worker, serve_one_task
from tests.support.certificates import Authority
from tests.support.rabbitmq_server import RabbitServer

pytestmark = pytest.mark.rabbitmq


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority, whom no broker trusts."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def strict_server(authority: Authority) -> Iterator[RabbitServer]:
    """A broker that wants a certificate of each client."""
    with RabbitServer(tls=(authority.issue("127.0.0.1"), authority), wants_client_certificates=True) as server:
        yield server


async def refusal(server: RabbitServer, **options: Any) -> str:
    """Return what SourceMisconfigured says, within seconds, about a source that can't be opened."""
    source = RabbitSource("orders", RabbitOptions.model_validate({"url": server.tls_url, **options}))
    began = time.monotonic()
    with pytest.raises(SourceMisconfigured) as caught:
        await source.open()
    assert time.monotonic() - began < 8
    await source.close()
    return str(caught.value)


async def test_a_queue_works_over_tls(
    rough_server: RabbitServer, authority: Authority, open_source: SourceFactory, queue: str
) -> None:
    """With the authority named, messages are sent, claimed, retried and acknowledged, on encrypted connections."""
    source = await open_source(rough_server, queue, url=rough_server.tls_url, ca_file=str(authority.file))

    await source.send(outgoing(b"1", b"2"))
    first, second = await claim(source, 2)
    await source.settle([first.ack(), second.retry(0)])
    again = await claim(source, 1)
    await source.settle([delivery.ack() for delivery in again])
    listed = await asyncio.to_thread(rough_server.ctl, "list_connections", "ssl", "client_properties")

    assert [b"2"] == [delivery.body for delivery in again]
    assert ["true"] * 2 == [line.split()[0] for line in listed.splitlines() if queue in line]
    assert 0 == (await source.stats()).ready


def test_a_service_works_over_tls(rough_server: RabbitServer, authority: Authority, queue: str, tmp_path: Path) -> None:
    """`qbridge send` and `qbridge run` with an `amqps://` URL: the task runs and the worker leaves with 0."""
    keys = {"backend": "rabbitmq", "url": rough_server.tls_url, "ca_file": str(authority.file), "queue": queue}

    end = serve_one_task(tmp_path, keys)

    assert (0, ["hello over 1"]) == (end.code, end.printed)


def test_a_worker_that_trusts_nobody_leaves(rough_server: RabbitServer, tmp_path: Path) -> None:
    """A certificate of an unknown authority ends `qbridge run` with 78 and the way out; it doesn't try for ever."""
    end = refused_worker(tmp_path, {"backend": "rabbitmq", "url": rough_server.tls_url})

    assert 78 == end.code
    assert "name its authority with ca_file" in end.told


async def test_an_unknown_authority_is_told(rough_server: RabbitServer, stranger: Authority) -> None:
    """A certificate that nobody known has signed: the error says how to name who has."""
    texts = [await refusal(rough_server), await refusal(rough_server, ca_file=str(stranger.file))]

    said = f"RabbitMQ at amqps://127.0.0.1:{rough_server.tls_port}, connecting: its certificate can't be verified: "
    assert [said] * 2 == [text[: len(said)] for text in texts]
    assert [True] * 2 == [text.endswith("(name its authority with ca_file)") for text in texts]


async def test_a_wrong_host_name_is_told(
    rough_server: RabbitServer, authority: Authority, open_source: SourceFactory, queue: str
) -> None:
    """A certificate for another host is refused with both names, unless `server_name` tells the one it bears."""
    wrong = {"url": f"amqps://localhost:{rough_server.tls_port}/", "ca_file": str(authority.file)}
    text = await refusal(rough_server, **wrong)
    await open_source(rough_server, queue, **wrong, server_name="127.0.0.1")

    assert "Hostname mismatch, certificate is not valid for 'localhost'" in text
    assert text.endswith("(give the url a host that the certificate names, or tell what it names with server_name)")


async def test_an_expired_certificate_is_told(strict_server: RabbitServer, authority: Authority) -> None:
    """The error says that it has expired, and to renew it."""
    valid = authority.issue("127.0.0.1")
    await asyncio.to_thread(strict_server.change_certificate, authority.issue("127.0.0.1", is_expired=True))

    text = await refusal(strict_server, ca_file=str(authority.file))

    await asyncio.to_thread(strict_server.change_certificate, valid)
    assert text.endswith("can't be verified: certificate has expired (renew it, or correct the clock)")


async def test_a_plain_client_at_a_tls_port_is_told(rough_server: RabbitServer) -> None:
    """The broker just hangs up; the error says which scheme to write."""
    text = await refusal(rough_server, url=f"amqp://127.0.0.1:{rough_server.tls_port}/")

    where = f"RabbitMQ at amqp://127.0.0.1:{rough_server.tls_port}"
    assert f"{where}, connecting: it speaks TLS there: write amqps://" == text


async def test_a_tls_client_at_a_plain_port_is_told(rough_server: RabbitServer) -> None:
    """The error says what to write."""
    text = await refusal(rough_server, url=f"amqps://127.0.0.1:{rough_server.port}/")

    where = f"RabbitMQ at amqps://127.0.0.1:{rough_server.port}"
    assert f"{where}, connecting: it speaks no TLS there: give the url its TLS port, or write amqp://" == text


async def test_a_client_certificate_is_shown(
    strict_server: RabbitServer, authority: Authority, open_source: SourceFactory, queue: str
) -> None:
    """A broker that wants the client's certificate gets it, on both connections."""
    own = authority.issue("worker@example.org")
    files = {"ca_file": str(authority.file), "cert_file": str(own.chain), "key_file": str(own.key)}
    source = await open_source(strict_server, queue, url=strict_server.tls_url, **files)

    await source.send(outgoing(b"x"))

    assert [b"x"] == [delivery.body for delivery in await claim(source, 1)]


async def test_a_missing_client_certificate_is_told(
    strict_server: RabbitServer, authority: Authority, stranger: Authority
) -> None:
    """The broker hangs up on a client without a certificate, or with one that it doesn't trust: both are told."""
    other = stranger.issue("worker@example.org")
    trust = {"ca_file": str(authority.file)}

    missing = await refusal(strict_server, **trust)
    refused = await refusal(strict_server, **trust, cert_file=str(other.chain), key_file=str(other.key))

    name = "with cert_file and key_file"
    assert missing.endswith(f"it wants a client's certificate that it trusts: name one {name}")
    assert refused.endswith(f"it refuses the client's certificate (TLSV1_ALERT_UNKNOWN_CA): name another {name}")


async def test_files_that_cannot_be_used_are_told(
    rough_server: RabbitServer, authority: Authority, tmp_path: Path
) -> None:
    """Missing, foreign and mixed-up files are named by their option, before anything connects."""
    one, two = authority.issue("a@example.org"), authority.issue("b@example.org")
    wrong = [
        ({"ca_file": f"{tmp_path}/none.pem"}, "ca_file can't be used: "),
        ({"ca_file": str(one.key)}, "ca_file can't be used: "),
        ({"cert_file": f"{tmp_path}/none.pem"}, "cert_file or key_file can't be used: "),
        ({"cert_file": str(one.chain), "key_file": str(two.key)}, "cert_file or key_file can't be used: "),
    ]

    said = [(await refusal(rough_server, **options), expected) for options, expected in wrong]

    assert [] == [text for text, expected in said if expected not in text]


async def is_unavailable(url: str, **options: Any) -> bool:
    """Return whether a source can't be opened and trying again may help."""
    source = RabbitSource("orders", RabbitOptions.model_validate({"url": url, "connect_timeout": 0.5, **options}))
    with pytest.raises(SourceError) as caught:
        await promptly(source.open(), 5)
    await source.close()
    return type(caught.value) is SourceUnavailable


async def test_a_fault_that_passes_is_not_taken_for_a_wrong_scheme(
    strict_server: RabbitServer, authority: Authority
) -> None:
    """A broker that is frozen or away, or hangs up on everybody, may be well again: that is SourceUnavailable."""
    urls = (strict_server.tls_url, strict_server.url, f"amqp://127.0.0.1:{strict_server.tls_port}/")
    strict_server.freeze()
    try:
        frozen = [await is_unavailable(url) for url in urls]
    finally:
        strict_server.thaw()
    rude = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1", 0)
    port = rude.sockets[0].getsockname()[1]
    async with rude:
        cut = [await is_unavailable(f"{scheme}://127.0.0.1:{port}/") for scheme in ("amqp", "amqps")]
    away = [await is_unavailable(f"{scheme}://127.0.0.1:{port}/") for scheme in ("amqp", "amqps")]

    assert ([True] * 3, [True] * 2, [True] * 2) == (frozen, cut, away)
