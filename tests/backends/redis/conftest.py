"""Fixtures of the Redis tests: a server for all of them, servers of one's own, and sources that get closed."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest

from qbridge_redis import RedisOptions, RedisSource
from tests.support.redis_server import RedisServer, redis_server_is_installed


class SourceFactory(Protocol):
    """Makes an open source on a server; the fixture closes it."""

    async def __call__(self, server: RedisServer, key: str, **options: Any) -> RedisSource: ...


@pytest.fixture(scope="session")
def _redis_server_is_installed() -> None:
    if not redis_server_is_installed():
        reason = "redis-server and redis-cli are not installed (apt-get install redis-server)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def redis_server(_redis_server_is_installed: None) -> Iterator[RedisServer]:
    """A server that all tests share: none may stop it or change how it is configured."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def own_server(_redis_server_is_installed: None) -> Iterator[RedisServer]:
    """A server for one test, which may do to it what it likes."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def durable_server(_redis_server_is_installed: None) -> Iterator[RedisServer]:
    """A server for one test that kills it and counts on what it had accepted."""
    with RedisServer(sync_always=True) as server:
        yield server


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return f"queue-{uuid.uuid4().hex}"


@pytest.fixture
async def open_source(_redis_server_is_installed: None) -> AsyncIterator[SourceFactory]:
    """Makes open sources; closes them at the end."""
    sources: list[RedisSource] = []

    async def make(server: RedisServer, key: str, **options: Any) -> RedisSource:
        source = RedisSource(key, RedisOptions.model_validate({"url": server.url, **options}))
        sources.append(source)
        await source.open()
        return source

    yield make
    for source in sources:
        await source.close()
