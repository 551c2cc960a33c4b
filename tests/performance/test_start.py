"""The start of `qbridge run` takes no more than was noted: modules and instructions until its first task.

Nothing here is timed. A test that fails says what is loaded in addition; CONTRIBUTING.md tells how a figure is noted.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.performance.costs import complaint
from tests.performance.start import further, instructions_until_first_task, modules_at_first_task, own_modules
from tests.performance.test_costs import WITHIN, missing, noted
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

__all__ = ["noted"]

#: How far the number of modules may be from what was noted: libraries that stand in other files with each version.
MODULES_WITHIN = 1.05

#: What a service doesn't need before its first task: the parser of command lines and what it brings, other commands,
#: and what tells of errors, of other processes, or to listeners. Each with all that is in it.
NEEDLESS = frozenset(
    {"typer", "click", "rich", "difflib", "gettext", "http", "multiprocessing", "prometheus_client", "unittest"}
    | {"qbridge.cli.app", "qbridge.cli.commands", "qbridge.cli.flags", "qbridge.cli.run", "qbridge.cli.send"}
    | {"qbridge.condition", "qbridge.events", "qbridge.metrics", "qbridge.probe_server", "qbridge.snapshot"}
    | {
        "qbridge.blocking",
        "qbridge.child",
        "qbridge.cli.output",
        "qbridge.schema",
        "qbridge.supervisor",
        "qbridge.testing",
    }
    | {"qbridge.config.model_keys", "qbridge.config.problems", "qbridge.config.wording"}
)

#: What a backend alone needs, beside its own package.
CLIENTS = {"redis": {"hiredis"}, "rabbitmq": {"pika"}, "sqlite": {"sqlite3"}, "memory": set[str]()}


def needless(modules: list[str], backend: str) -> str:
    """Return the names of what was loaded and a service on a backend doesn't need; "" if it is nothing."""
    others = {name: clients | {f"qbridge_{name}"} for name, clients in CLIENTS.items() if name != backend}
    unwanted = NEEDLESS.union(*others.values())
    return ", ".join(name for name in modules if any(f"{name}.".startswith(f"{each}.") for each in unwanted))


def test_a_start_loads_no_more_modules(noted: dict[str, Any], tmp_path: Path) -> None:
    """A service on SQLite loads as many modules as was noted, within a twentieth; those in addition are named."""
    modules = modules_at_first_task({"backend": "sqlite", "path": f"{tmp_path}/q.db"})

    known = noted["start"]["modules"]
    of_others = further(known["packages"], modules)
    of_qbridge = sorted(set(own_modules(modules)).difference(known["own"]))
    what = f"modules until the first task (more than noted: {of_others}; of qbridge: {', '.join(of_qbridge)})"
    assert "" == complaint(what, known["total"], len(modules), within=MODULES_WITHIN)


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_a_start_takes_no_more_instructions(noted: dict[str, Any]) -> None:
    """A service on SQLite takes as many instructions to its first task as was noted, within a tenth."""
    if shutil.which("valgrind") is None:
        missing("valgrind is not installed; `make test` installs it")

    measured = instructions_until_first_task()

    assert "" == complaint("instructions of a start", noted["start"]["instructions"], measured, within=WITHIN)


def test_a_start_on_sqlite_loads_nothing_needless(tmp_path: Path) -> None:
    """A service on SQLite loads its own backend, and nothing that only others or other commands need."""
    modules = modules_at_first_task({"backend": "sqlite", "path": f"{tmp_path}/q.db"})

    assert "" == needless(modules, "sqlite")
    assert "sqlite3" in modules


@pytest.mark.redis
def test_a_start_on_redis_loads_nothing_needless() -> None:
    """A service on Redis loads its own backend, and nothing that only others or other commands need."""
    with RedisServer() as server:
        modules = modules_at_first_task({"backend": "redis", "url": server.url})

    assert "" == needless(modules, "redis")
    assert "hiredis" in modules


@pytest.mark.rabbitmq
def test_a_start_on_rabbitmq_loads_nothing_needless(rabbitmq_server: RabbitServer) -> None:
    """A service on RabbitMQ loads its own backend, and nothing that only others or other commands need."""
    queue = f"start.{uuid.uuid4().hex}"

    modules = modules_at_first_task({"backend": "rabbitmq", "url": rabbitmq_server.url, "queue": queue})

    assert "" == needless(modules, "rabbitmq")
    assert "pika" in modules


def test_what_is_loaded_in_addition_is_named() -> None:
    """Packages of which there are more modules than was noted are told with how many, others are not."""
    noted = {"yaml": 2, "typer": 1}

    assert {"rich": 2, "typer": 1} == further(noted, ["rich", "rich.table", "typer", "typer.main", "yaml"])
