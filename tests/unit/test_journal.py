"""The journal: what the log and the listeners are told of a task's end, and what they are never told."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from qbridge import HandlerRegistry, Reject, Retry
from qbridge.events import TaskFinished
from tests.support.worker_bench import WorkerBench

registry = HandlerRegistry()


@registry.task
async def succeed(password: str) -> None:
    """Be done."""


@registry.task
async def fail(password: str) -> None:
    """Fail without naming the argument."""
    raise ValueError("no luck")


@registry.task
async def put_off(password: str) -> None:
    """Ask for another attempt, a little later."""
    raise Retry("busy", delay=0.0123456)


@registry.task
async def reject(password: str) -> None:
    """Refuse the message."""
    raise Reject("too old")


@registry.task
async def count(password: int) -> None:
    """Take a number, which a text is not."""


async def run(
    caplog: pytest.LogCaptureFixture, task: str, attempts: int
) -> tuple[list[dict[str, Any]], list[TaskFinished]]:
    """Run a task with a secret argument to its end; return what was logged of tasks, and what was told."""
    caplog.set_level(logging.DEBUG, "qbridge")
    async with WorkerBench(registry) as bench:
        await bench.add("orders")
        await bench.start()
        await bench.send(task, ["hunter2"], queue="orders")
        await bench.until_finished(attempts)
        finished = list(bench.finished)
    records = [
        record.__dict__ | {"text": record.getMessage()} for record in caplog.records if "task" in record.__dict__
    ]
    return records, finished


@pytest.mark.parametrize(
    ("task", "attempts"), [("succeed", 1), ("fail", 3), ("put_off", 3), ("reject", 1), ("count", 1)]
)
async def test_arguments_are_never_logged(caplog: pytest.LogCaptureFixture, task: str, attempts: int) -> None:
    """Not even at debug does the log repeat what a task was given, nor do the events."""
    records, finished = await run(caplog, task, attempts)

    assert records
    assert "hunter2" not in str(records)
    assert "hunter2" not in str([record.__dict__ for record in caplog.records])
    assert "hunter2" not in str(finished)


async def test_a_failure_is_logged_once_for_each_attempt(caplog: pytest.LogCaptureFixture) -> None:
    """Warnings while it is tried again, an error when it is given up; each with its traceback and place."""
    records, _ = await run(caplog, "fail", 3)

    failures = [record for record in records if record["levelno"] > logging.INFO]
    assert [
        (logging.WARNING, "task failed, it is tried again", 1, 0.01),
        (logging.WARNING, "task failed, it is tried again", 2, 0.01),
        (logging.ERROR, "task failed for good, message dead-lettered", 3, None),
    ] == [(record["levelno"], record["text"], record["attempt"], record.get("delay")) for record in failures]
    assert "exhausted" == failures[-1]["reason"]
    for record in failures:
        assert ("orders", "fail") == (record["queue"], record["task"])
        assert record["error"].startswith("ValueError: no luck\n")
        assert record["error"].rstrip().endswith('raise ValueError("no luck")')


@pytest.mark.parametrize(
    ("task", "level", "fields"),
    [
        ("put_off", logging.WARNING, {"error": "busy", "delay": 0.012}),
        ("reject", logging.ERROR, {"error": "too old", "reason": "rejected"}),
        (
            "count",
            logging.ERROR,
            {
                "error": "arguments of task 'count' don't fit: password: Input should be a valid integer, unable to "
                "parse string as an integer",
                "reason": "invalid",
            },
        ),
    ],
)
async def test_a_signal_is_logged_with_its_reason(
    caplog: pytest.LogCaptureFixture, task: str, level: int, fields: dict[str, Any]
) -> None:
    """What a handler asks for, and arguments that don't fit, are told in their own words."""
    records, _ = await run(caplog, task, 1)

    first = next(record for record in records if record["levelno"] > logging.INFO)
    assert (level, fields) == (first["levelno"], {key: first[key] for key in fields})


async def test_a_success_is_told_at_debug_only(caplog: pytest.LogCaptureFixture) -> None:
    """A line for each task would drown the log; at debug it says where the task ran and for how long."""
    [record], [event] = await run(caplog, "succeed", 1)

    assert (logging.DEBUG, "task ended", "done", "default-0") == (
        record["levelno"],
        record["text"],
        record["outcome"],
        record["loop_thread"],
    )
    assert record["waited"] >= 0
    assert record["duration"] > 0
    assert ("orders", "succeed", 1, "done", "", "default-0", "") == (
        event.queue,
        event.task,
        event.attempt,
        event.outcome,
        event.reason,
        event.loop_thread,
        event.error,
    )
    assert event.message_id == record["message_id"]
    assert (record["waited"], record["duration"]) == (round(event.waited or 0, 6), round(event.duration or 0, 6))


async def test_events_tell_how_each_attempt_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Each delivery has one event, with outcome, reason and error."""
    _, finished = await run(caplog, "fail", 3)

    assert [("retried", "", 1), ("retried", "", 2), ("dead_lettered", "exhausted", 3)] == [
        (event.outcome, event.reason, event.attempt) for event in finished
    ]
    assert ["ValueError: no luck"] * 3 == [event.error.partition("\n")[0] for event in finished]
