"""`qbridge queues`: what is in each queue, and what is told of one that can't be asked."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.limited_backend import install_limited_backends
from tests.support.redis_server import RedisServer

__all__ = ["service"]

MIXED = """
    handlers: [shop_tasks]
    queues:
      here: {backend: sqlite, path: ./q.db}
      away: {backend: redis, url: "redis://127.0.0.1:1/0"}
      inside: {backend: memory}
"""


def test_every_queue_is_counted(service: ServiceFolder) -> None:
    """Ready, delayed, in flight and dead messages are told for each queue, in the order of the file."""
    service.write(
        "qbridge.yaml",
        """
        handlers: [shop_tasks]
        queues:
          orders: {backend: sqlite, path: ./q.db}
          bills: {backend: sqlite, path: ./q.db}
        """,
    )
    for _ in range(2):
        service.send("cleanup", queue="bills")
    service.invoke("send", "cleanup", "--queue", "bills", "--delay", "1h")

    rows = json.loads(service.invoke("queues", "--format", "json").out)

    ages = [row.pop("oldest_age") for row in rows]
    assert [
        {"queue": "orders", "backend": "sqlite", "ready": 0, "delayed": 0, "in_flight": 0, "dead": 0},
        {"queue": "bills", "backend": "sqlite", "ready": 2, "delayed": 1, "in_flight": 0, "dead": 0},
    ] == rows
    assert ages[0] == 0
    assert 0 < ages[1] < 60


def test_a_table_is_for_people(service: ServiceFolder) -> None:
    """The table has aligned columns, whole words and a dash for what there is not."""
    ended = service.invoke("queues")

    assert (
        "queue    backend  ready  delayed  in flight  dead  oldest\n"
        "default  sqlite       0        0          0     0       -\n"
    ) == ended.out
    assert (ExitCode.OK, "") == (ended.code, ended.err)


def test_a_broker_that_is_away_hides_no_other_queue(service: ServiceFolder) -> None:
    """The table has a row with the error, the other queues are counted, and the exit code is 3."""
    service.write("qbridge.yaml", MIXED)

    ended = service.invoke("queues")

    [heading, here, away, inside] = ended.out.splitlines()
    assert heading.endswith("oldest  problem")
    assert ["here", "sqlite", "0", "0", "0", "0", "-"] == here.split()
    assert away.startswith("away    redis        -        -          -     -       -  Redis at redis://127.0.0.1:1/0")
    assert inside.endswith(
        "  backend memory keeps its messages in the worker's process, where no other command can reach them"
    )
    assert (ExitCode.UNREACHABLE, "") == (ended.code, ended.err)


def test_json_has_nulls_for_what_could_not_be_counted(service: ServiceFolder) -> None:
    """Programs see the same keys for every queue; the reason is on standard error."""
    service.write("qbridge.yaml", MIXED)

    ended = service.invoke("queues", "--format", "json")

    [here, away, inside] = json.loads(ended.out)
    nothing: dict[str, Any] = dict.fromkeys(("ready", "delayed", "in_flight", "dead", "oldest_age"))
    assert {"queue": "away", "backend": "redis", **nothing} == away
    assert {"queue": "inside", "backend": "memory", **nothing} == inside
    assert set(away) == set(here)
    assert ended.errors[0].startswith("error: queue 'away': Redis at ")
    assert ended.errors[1].startswith("warning: queue 'inside': backend memory keeps its messages in ")
    assert ExitCode.UNREACHABLE == ended.code


def test_a_queue_in_the_worker_is_no_failure(service: ServiceFolder) -> None:
    """That a memory queue can't be seen from here is told, and is as it must be."""
    service.write("qbridge.yaml", "{handlers: [shop_tasks], queues: {inside: {backend: memory}}}")

    assert ExitCode.OK == service.invoke("queues").code


def test_a_broker_that_does_not_answer_is_not_waited_for(
    service: ServiceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question without an answer ends after a while, as if the broker were away."""
    install_limited_backends(service.path)
    sys.path.append(str(service.path))
    monkeypatch.setattr("qbridge.cli.operating.ANSWER_TIMEOUT", 0.2)
    service.write("qbridge.yaml", "{handlers: [shop_tasks], queues: {mute: {backend: silent}}}")

    ended = service.invoke("queues")

    assert ended.out.endswith("  queue 'mute' did not answer within 0.2 s\n")
    assert ExitCode.UNREACHABLE == ended.code


def test_the_age_is_read_from_the_envelope_where_the_broker_keeps_none(
    service: ServiceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that shows its oldest message and no age leaves it to the message to say when it was sent."""
    install_limited_backends(service.path)
    sys.path.append(str(service.path))
    service.write("qbridge.yaml", "{handlers: [shop_tasks], queues: {old: {backend: timeless}}}")
    monkeypatch.setattr("time.time", lambda: 1090.0)

    [row] = json.loads(service.invoke("queues", "--format", "json").out)
    table = service.invoke("queues").out

    assert 90.0 == row["oldest_age"]
    assert table.endswith("   1.5m\n")


@pytest.mark.redis
def test_a_foreign_message_in_redis_has_no_age(service: ServiceFolder) -> None:
    """What somebody pushed by hand says not when: its age is unknown, unlike that of an envelope."""
    with RedisServer() as server:
        service.write(
            "qbridge.yaml",
            f"""
            handlers: [shop_tasks]
            queues:
              enveloped: {{backend: redis, url: "{server.url}"}}
              raw: {{backend: redis, url: "{server.url}", key: numbers, codec: {{type: raw, task: count}}}}
            """,
        )
        server.cli("lpush", "numbers", 5)
        service.send("cleanup", queue="enveloped")

        [enveloped, raw] = json.loads(service.invoke("queues", "--format", "json").out)

    assert 0 <= enveloped["oldest_age"] < 60
    assert (1, None) == (raw["ready"], raw["oldest_age"])
