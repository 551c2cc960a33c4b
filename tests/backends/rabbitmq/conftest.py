"""Fixtures of the RabbitMQ tests: a server that may be mistreated, a foreign client, and sources that get closed."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest

from qbridge_rabbitmq import RabbitOptions, RabbitSource
from tests.backends.rabbitmq.amqp import AmqpClient
from tests.support.certificates import Authority
from tests.support.rabbitmq_server import RabbitServer


class SourceFactory(Protocol):
    """Makes an open source on a server; the fixture closes it."""

    async def __call__(self, server: RabbitServer, queue: str, **options: Any) -> RabbitSource: ...


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who has signed the brokers' certificates, and the clients'."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def rough_server(authority: Authority) -> Iterator[RabbitServer]:
    """A server that tests may kill, freeze and starve, if it is well again when they end.

    It takes 1 MiB at most, and speaks TLS too, with a certificate for 127.0.0.1.
    """
    tls = (authority.issue("127.0.0.1"), authority)
    with RabbitServer(configuration="max_message_size = 1048576\n", tls=tls) as server:
        yield server


@pytest.fixture
def queue() -> str:
    """A queue that no other test uses."""
    return f"queue-{uuid.uuid4().hex}"


@pytest.fixture
def client(rabbitmq_server: RabbitServer) -> Iterator[AmqpClient]:
    """A foreign program, on the server that all tests share."""
    with AmqpClient(rabbitmq_server.port) as client:
        yield client


@pytest.fixture
async def open_source() -> AsyncIterator[SourceFactory]:
    """Makes open sources; closes them at the end."""
    sources: list[RabbitSource] = []

    async def make(server: RabbitServer, queue: str, **options: Any) -> RabbitSource:
        source = RabbitSource(queue, RabbitOptions.model_validate({"url": server.url, **options}))
        sources.append(source)
        await source.open()
        return source

    yield make
    for source in sources:
        await source.close()
