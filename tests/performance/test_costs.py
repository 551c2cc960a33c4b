"""A task and a send cost no more than was noted: instructions, calls, memory that stays, and round trips to brokers.

Nothing here is timed. A test that fails says what has become dearer; CONTRIBUTING.md tells how a new figure is noted.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.performance.costs import (
    BASELINE,
    blocks_left,
    calls_per_send,
    calls_per_task,
    complaint,
    instructions_per_task,
    version,
    worse_functions,
)
from tests.performance.drained_queue import TASKS
from tests.performance.round_trips import rabbitmq_bytes, redis_requests, sqlite_transactions
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

NOTED: dict[str, Any] = json.loads(BASELINE.read_text())

#: How far a figure may be from what was noted. From run to run instructions and calls differ by 2 %, round trips by a
#: half, as the size of a batch depends on who of two threads is faster; without batches there are five times as many.
WITHIN = 1.1
TRIPS_WITHIN = 2.5

#: Blocks of memory that may stay of all tasks together: what is remembered once, and no task leaves one.
MOST_BLOCKS = TASKS // 10


def missing(what: str) -> None:
    """Fail in CI for want of something, and skip elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture
def noted() -> dict[str, Any]:
    """What was noted for this version of Python, whose own functions are counted too."""
    if version() not in NOTED:
        missing(f"no costs are noted for Python {version()}; `make costs` notes them")
    found: dict[str, Any] = NOTED[version()]
    return found


@pytest.mark.slow
@pytest.mark.timeout(320)
def test_a_task_takes_no_more_instructions(noted: dict[str, Any]) -> None:
    """The way of a task through the whole dispatcher takes as many instructions as was noted, within a tenth."""
    if shutil.which("valgrind") is None:
        missing("valgrind is not installed; `make test` installs it")

    measured = instructions_per_task()

    assert "" == complaint("instructions of a task", noted["instructions"], measured, within=WITHIN)


def test_a_task_takes_no_more_calls(noted: dict[str, Any]) -> None:
    """No function is called once more for each task than was noted, and all calls together stay within a tenth."""
    calls = calls_per_task()

    assert {} == worse_functions(noted["calls"]["functions"], calls), "called more often per task (noted, measured)"
    measured = round(sum(calls.values()), 1)
    assert "" == complaint("calls of a task", noted["calls"]["total"], measured, within=WITHIN)


def test_a_send_takes_no_more_calls(noted: dict[str, Any]) -> None:
    """A message takes as many calls of functions as was noted, within a tenth, in each way to send."""
    measured = calls_per_send()

    complaints = [
        complaint(f"calls of {way}", calls, measured[way], within=WITHIN) for way, calls in noted["sends"].items()
    ]
    assert ["", "", "", ""] == complaints


def test_no_task_leaves_memory_behind() -> None:
    """When tasks are done and their queue is gone, fewer blocks of memory stay than one for ten tasks."""
    assert MOST_BLOCKS > blocks_left()


@pytest.mark.redis
def test_redis_is_not_asked_more_often() -> None:
    """A worker sends Redis as few requests for 1,000 tasks as was noted: claims and settlements travel in batches."""
    with RedisServer() as server:
        measured = redis_requests(server)

    noted = NOTED["round_trips"]["redis"]
    assert "" == complaint("requests to Redis for 1,000 tasks", noted, measured, within=TRIPS_WITHIN)


@pytest.mark.rabbitmq
def test_rabbitmq_is_not_told_more(rabbitmq_server: RabbitServer) -> None:
    """A worker writes RabbitMQ as few bytes for 1,000 tasks as was noted: one acknowledgement stands for many."""
    measured = rabbitmq_bytes(rabbitmq_server)

    noted = NOTED["round_trips"]["rabbitmq"]
    assert "" == complaint("bytes to RabbitMQ for 1,000 tasks", noted, measured, within=TRIPS_WITHIN)


def test_sqlite_commits_no_more_often(tmp_path: Path) -> None:
    """A worker commits as few transactions for 1,000 tasks as was noted."""
    measured = sqlite_transactions(tmp_path)

    noted = NOTED["round_trips"]["sqlite"]
    assert "" == complaint("transactions of SQLite for 1,000 tasks", noted, measured, within=TRIPS_WITHIN)


def test_what_became_dearer_or_cheaper_is_told() -> None:
    """A figure within the tolerance is silent; one above it and one below it say what to do."""
    assert "" == complaint("calls", 100, 109, within=1.1)
    assert "dearer" in complaint("calls", 100, 111, within=1.1)
    assert "+11%" in complaint("calls", 100, 111, within=1.1)
    assert "cheaper: note that with `make costs`" in complaint("calls", 100, 90, within=1.1)


def test_one_more_call_for_each_task_is_seen() -> None:
    """A function that is called once more for each task is named, be it known or not; one for each batch is not."""
    noted = {"lock.__exit__": 1.1, "min": 0.1}

    measured = {"lock.__exit__": 2.1, "min": 0.4, "datetime.now": 1.0}

    assert {"lock.__exit__": (1.1, 2.1), "datetime.now": (0.0, 1.0)} == worse_functions(noted, measured)
