"""`qbridge check`: what it lists, and all that it finds wrong without a broker."""

from __future__ import annotations

import json
import sys

import pytest

from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.limited_backend import install_limited_backends

__all__ = ["service"]

EVERYTHING = """
    handlers: [shop_tasks]
    queues:
      default: {backend: sqlite, path: ./q.db}
      numbers: {backend: redis, url: "redis://127.0.0.1:1/0", codec: {type: raw, task: count}, loops: slow}
    loops:
      default: {}
      slow: {threads: 2}
    retry: {max_attempts: 3, backoff: linear, base: 2s, cap: 1m}
"""


def test_the_service_is_listed(service: ServiceFolder) -> None:
    """Queues and handlers are told with what is in force for them; no broker is asked and no file is made."""
    service.write("qbridge.yaml", EVERYTHING)

    ended = service.invoke("check")

    assert (
        "queue    backend  codec          loops\n"
        "default  sqlite   json           default\n"
        "numbers  redis    raw for count  slow\n"
        "\n"
        "task     arguments                    timeout  retry\n"
        "greet    (name: str, times: int = 1)  -        3 attempts, linear 2s to 1m\n"
        "count    (number: int)                1.5m     1 attempt\n"
        "cleanup  ()                           -        3 attempts, linear 2s to 1m\n"
        "refuse   (why: str)                   -        3 attempts, linear 2s to 1m\n"
    ) == ended.out
    assert (ExitCode.OK, "") == (ended.code, ended.err)
    assert {"qbridge.yaml", "shop_tasks.py"} == {path.name for path in service.path.glob("*.*")}


def test_the_list_is_json_too(service: ServiceFolder) -> None:
    """JSON has an object with queues and handlers; times are in seconds."""
    service.write("qbridge.yaml", EVERYTHING)

    listed = json.loads(service.invoke("check", "--format", "json").out)

    assert {"queues", "handlers"} == set(listed)
    assert [
        {"queue": "default", "backend": "sqlite", "codec": "json", "task": None, "loops": "default"},
        {"queue": "numbers", "backend": "redis", "codec": "raw", "task": "count", "loops": "slow"},
    ] == listed["queues"]
    assert {
        "task": "count",
        "signature": "(number: int)",
        "timeout": 90,
        "retry": {"max_attempts": 1, "backoff": "exponential", "base": 1.0, "cap": 300.0, "jitter": True},
    } == listed["handlers"][1]


def test_annotations_are_shown_as_they_were_written(service: ServiceFolder) -> None:
    """In a module with postponed annotations they are the author's words; the context is never an argument."""
    service.write(
        "shop_tasks.py",
        """
        from __future__ import annotations
        from qbridge import HandlerRegistry, TaskContext

        registry = HandlerRegistry()

        @registry.task
        async def pay(context: TaskContext, sums: list[int | None], /, *, note: str = "[b]", **rest: object): ...
        """,
    )

    listed = json.loads(service.invoke("check", "--format", "json").out)

    [pay] = listed["handlers"]
    assert "(sums: list[int | None], /, *, note: str = '[b]', **rest: object)" == pay["signature"]


def test_all_problems_are_told_at_once(service: ServiceFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing client library, a raw queue's task and a missing loop implementation: a line for each, and 78."""
    install_limited_backends(service.path)
    sys.path.append(str(service.path))
    monkeypatch.setitem(sys.modules, "uvloop", None)
    service.write(
        "qbridge.yaml",
        """
        handlers: [shop_tasks]
        queues:
          a: {backend: clientless}
          b: {backend: sqlite, path: ./q.db, codec: {type: raw, task: cuont}}
          c: {backend: sqlite, path: ./q.db, codec: {type: raw, task: cleanup}}
        loops:
          default: {implementation: uvloop}
        """,
    )

    ended = service.invoke("check")

    assert [
        "error: qbridge.yaml: queues.a.backend is 'clientless', which needs module 'no_such_client': "
        "pip install no-such-client",
        "error: qbridge.yaml: queues.b.codec.task is 'cuont', which no handler is registered for "
        "(known: greet, count, cleanup, refuse); did you mean 'count'?",
        "error: qbridge.yaml: queues.c.codec.task is 'cleanup', whose handler can't be called with a payload alone: "
        "it takes ()",
        "error: qbridge.yaml: loops.default.implementation is 'uvloop', which is not installed: "
        'pip install "qbridge[uvloop]", or write auto',
    ] == ended.errors
    assert (ExitCode.CONFIG, "") == (ended.code, ended.out)


def test_problems_of_handlers_and_queues_are_told_together(service: ServiceFolder) -> None:
    """Handlers that can't be imported hide no other problem."""
    install_limited_backends(service.path)
    sys.path.append(str(service.path))
    service.write("qbridge.yaml", "{handlers: [nowhere, shop_tasks:registr], queues: {a: {backend: clientless}}}")

    ended = service.invoke("check")

    assert [
        "error: qbridge.yaml: handlers: module 'nowhere' is not found (looked in . and sys.path)",
        "error: qbridge.yaml: handlers: 'shop_tasks:registr' names no HandlerRegistry: there is none "
        "(known in shop_tasks: registry); did you mean 'registry'?",
        "error: qbridge.yaml: queues.a.backend is 'clientless', which needs module 'no_such_client': "
        "pip install no-such-client",
    ] == ended.errors


def test_handlers_are_found_beside_the_file(service: ServiceFolder) -> None:
    """A file in another folder brings the modules beside it, before those of the working directory."""
    service.write("elsewhere/qbridge.yaml", "{handlers: [shop_tasks], queues: {a: {backend: memory}}}")
    service.write(
        "elsewhere/shop_tasks.py",
        """
        from qbridge import HandlerRegistry
        registry = HandlerRegistry()
        @registry.task
        async def elsewhere() -> None: ...
        """,
    )

    listed = json.loads(service.invoke("check", "-c", "elsewhere/qbridge.yaml", "--format", "json").out)

    assert ["elsewhere"] == [row["task"] for row in listed["handlers"]]


def test_a_service_without_handlers_is_warned_of(service: ServiceFolder) -> None:
    """A file for senders only is right, and its owner is told what a worker would do with it."""
    service.write("qbridge.yaml", "{handlers: [], queues: {a: {backend: memory}}}")

    ended = service.invoke("check")

    assert [
        "warning: qbridge.yaml: there is no handler: every message would become a dead letter unknown_task"
    ] == ended.errors
    assert ExitCode.OK == ended.code
