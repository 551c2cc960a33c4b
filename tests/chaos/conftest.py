"""The brokers that campaigns run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chaos.brokers import Broker, rabbitmq_broker, redis_broker, sqlite_broker


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ]
)
def chaos_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Each broker that several processes share."""
    if request.param == "sqlite":
        yield sqlite_broker(tmp_path)
    elif request.param == "redis":
        with redis_broker() as broker:
            yield broker
    else:
        yield rabbitmq_broker(request.getfixturevalue("rabbitmq_server"))
