"""The users that the guide tells to make can do what they are for, and nothing else."""

from __future__ import annotations

import asyncio
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from qbridge_redis import RedisOptions, RedisSource
from tests.backends.redis.steps import bodies, outgoing, receive_all, until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "security.md"


def grant(server: RedisServer, user: str) -> None:
    """Make a user as the guide says."""
    [rules] = re.findall(rf"^ACL SETUSER {user} (.*)$", GUIDE.read_text("utf-8"), re.M)
    server.cli("ACL", "SETUSER", user, *rules.split())


def refused(server: RedisServer, user: str, *command: str) -> bool:
    """Whether the server refuses a command of a user for want of the right."""
    done = subprocess.run(
        ["redis-cli", "-p", str(server.port), "--user", user, "--pass", "secret", "--no-auth-warning", *command],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    return "NOPERM" in done.stdout + done.stderr


async def test_the_guide_s_worker_can_do_all_that_a_source_does(own_server: RedisServer) -> None:
    """Every call of the contract, and so every script, works with the rights of the guide; none was refused."""
    grant(own_server, "worker")
    options = {"url": own_server.url, "username": "worker", "password": "secret", "key": "orders", "lease": 5}
    source = RedisSource("orders", RedisOptions.model_validate(options))
    try:
        await source.open()
        waiting = asyncio.create_task(source.receive(1, 30))
        await until(lambda: waiting.done() or "blmove" in own_server.cli("CLIENT", "LIST"))
        source.wake()
        assert [] == list(await waiting)
        await source.send(outgoing(b"a", b"b", b"c", b"d"))
        await source.send(outgoing(b"later", delay=0.05))
        claimed = await receive_all(source, 4)
        assert [b"a", b"b", b"c", b"d"] == bodies(claimed)[:4]
        assert [] == list(await source.keep_alive(claimed))
        one, two, three, four = claimed[:4]
        await source.settle([one.ack(), two.retry(0.01, "no"), three.release(), four.dead_letter("rejected", "no")])
        again = await receive_all(source, 3)
        await source.settle([delivery.dead_letter("rejected", "no") for delivery in again])
        stats = await source.stats()
        letters = await source.dead_letters()
        assert (4, 4) == (stats.dead, len(letters))
        assert 1 == len(await source.dead_letters(ids=[letters[0].message_id]))
        assert (1, 1) == (await source.redrive([letters[0].message_id]), await source.purge([letters[1].message_id]))
        assert 2 == await source.redrive()
    finally:
        await source.close()

    log = own_server.cli("ACL", "LOG").split()
    assert set() == {after for word, after in pairwise(log) if word == "object"}


async def test_the_guide_s_users_can_do_nothing_else(own_server: RedisServer) -> None:
    """No other key, no configuration, no script of one's own; the producer can't even read."""
    for user in ("worker", "producer"):
        grant(own_server, user)

    asked = {
        "worker": ["GET x", "LPUSH other 1", "LPUSH {orders}x 1", "EVAL 1 0", "CONFIG GET *", "FLUSHALL", "KEYS *"],
        "producer": ["RPOP orders", "LRANGE orders 0 1", "LPUSH other 1", "LPUSH {orders}:qbridge:dead 1", "INFO"],
    }

    allowed = [
        (user, command)
        for user, commands in asked.items()
        for command in [*commands, "ACL LIST", "SHUTDOWN NOSAVE", "PUBLISH a b", "EVALSHA_RO a 0"]
        if not await asyncio.to_thread(refused, own_server, user, *command.split())
    ]

    assert [] == allowed
    assert not refused(own_server, "producer", "LPUSH", "orders", "1")
