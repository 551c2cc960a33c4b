"""TaskMessage: what it holds, and what can't be one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from qbridge import TaskMessage


def test_a_message_gets_an_id_and_the_time() -> None:
    """Two messages differ in their ids, and each knows when it was made."""
    before = time.time()

    first, second = TaskMessage(task="a"), TaskMessage(task="a")

    assert first.id != second.id
    assert 32 == len(first.id)
    assert before <= (first.enqueued_at or 0.0) <= second.enqueued_at <= time.time()  # type: ignore[operator]  # a default


@pytest.mark.parametrize(
    ("fields", "key", "text"),
    [
        ({}, "task", "Field required"),
        ({"task": ""}, "task", r"String should match pattern '^[A-Za-z0-9_.:\-]{1,128}$'"),
        ({"task": "{a}"}, "task", r"String should match pattern '^[A-Za-z0-9_.:\-]{1,128}$'"),
        ({"task": "a\n"}, "task", r"String should match pattern '^[A-Za-z0-9_.:\-]{1,128}$'"),
        ({"task": "a", "id": ""}, "id", "String should have at least 1 character"),
        ({"task": "a", "id": "x" * 129}, "id", "String should have at most 128 characters"),
        ({"task": "a", "headers": {"n": 1}}, "headers.n", "Input should be a valid string"),
        ({"task": "a", "enqueued_at": float("nan")}, "enqueued_at", "Input should be a finite number"),
        ({"task": "a", "priority": 1}, "priority", "Extra inputs are not permitted"),
    ],
)
def test_what_is_no_message_is_refused(fields: dict[str, Any], key: str, text: str) -> None:
    """Each field has its bounds, and there are no others."""
    with pytest.raises(ValidationError) as refusal:
        TaskMessage(**fields)

    [error] = refusal.value.errors()
    assert (key, text) == (".".join(map(str, error["loc"])), error["msg"])


def test_a_message_can_t_be_changed() -> None:
    """A message is the same for everybody who holds it."""
    message = TaskMessage(task="a")

    with pytest.raises(ValidationError, match="frozen"):
        message.task = "b"  # type: ignore[misc]  # what the test is about


def test_an_error_keeps_the_value_out() -> None:
    """What was given may be secret, so that the error's text does not repeat it."""
    with pytest.raises(ValidationError) as refusal:
        TaskMessage(task="a", headers={"token": ["hunter2"]})

    assert "hunter2" not in str(refusal.value)
