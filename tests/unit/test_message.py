"""TaskMessage: what it holds, and what can't be one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pydantic import ValidationError

from qbridge import TaskMessage
from qbridge.message import fields_of, fields_of_call, new_message_id


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


def test_threads_get_ids_of_their_own() -> None:
    """No id is given twice, however many threads ask for one at the same time."""

    def draw(_: int) -> list[str]:
        return [new_message_id() for _ in range(5_000)]

    with ThreadPoolExecutor(4) as pool:
        ids = [id_ for drawn in pool.map(draw, range(8)) for id_ in drawn]

    assert 40_000 == len(set(ids))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_gives_ids_of_its_own() -> None:
    """A child has its parent's memory, but not its ids."""
    program = """
import os
from qbridge.message import new_message_id
new_message_id()
child = os.fork()
os.write(1, f"{new_message_id()} ".encode())  # in one piece, as both may write at once
if child:
    os.waitpid(child, 0)
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)

    assert 2 == len(set(done.stdout.split()))


@pytest.mark.parametrize(
    ("args", "kwargs", "headers"),
    [((), {}, {}), ((1, "x", None), {"n": [2], "id": 3}, {}), ((), {}, {"h": "x"})],
)
def test_the_fields_of_a_call_are_those_of_its_message(
    args: tuple[Any, ...], kwargs: dict[str, Any], headers: dict[str, str]
) -> None:
    """What a send writes without making a message is what it would write of one."""
    message = TaskMessage(task="shop.pay", args=list(args), kwargs=kwargs, headers=headers)

    fields = fields_of_call("shop.pay", args, kwargs, headers)

    assert list(fields) == list(fields_of(message)) == list(TaskMessage.model_fields)
    assert TaskMessage(**fields) == TaskMessage(**message.model_dump() | {"id": fields["id"]}).model_copy(
        update={"enqueued_at": fields["enqueued_at"]}
    )


@pytest.mark.parametrize("task", ["", "{a}", "a\n", "x" * 129, "\ud800", 7, ["a"], None])
def test_a_call_of_what_is_no_name_is_refused_like_its_message(task: Any) -> None:
    """There is one set of rules and words for names."""
    with pytest.raises(ValidationError) as expected:
        TaskMessage(task=task)

    for _ in range(2):  # a name that was looked at before, too
        with pytest.raises(ValidationError) as refusal:
            fields_of_call(task, (), {}, {})

        assert expected.value.errors() == refusal.value.errors()


def test_a_kind_of_message_has_the_fields_of_a_message() -> None:
    """What a program adds for itself in a subclass stays with it."""

    class Noted(TaskMessage):
        note: str

    assert list(TaskMessage.model_fields) == list(fields_of(Noted(task="a", note="mine")))
