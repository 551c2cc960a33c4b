"""Handler.bind: what a message must bring for a handler, and what the handler then gets."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from qbridge import HandlerRegistry, InvalidArgumentsError, TaskContext, TaskMessage
from qbridge.codec import RawPayload


async def _no_send(*args: Any, **kwargs: Any) -> str:
    raise AssertionError("nothing is sent here")


CONTEXT = TaskContext(
    id="m1",
    task="handler",
    queue="q",
    attempt=1,
    max_attempts=5,
    headers={},
    enqueued_at=None,
    loop_thread="default-0",
    _send=_no_send,
)


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Register a plain function, and return what it returns for a message with these arguments."""
    registry = HandlerRegistry()
    registry.task(name="handler")(function)
    positional, named = registry["handler"].bind(TaskMessage(task="handler", args=list(args), kwargs=kwargs), CONTEXT)
    return function(*positional, **named)


def problems(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[str, ...]:
    """Return what is wrong with these arguments for a function."""
    with pytest.raises(InvalidArgumentsError) as refusal:
        call(function, *args, **kwargs)
    return refusal.value.problems


class Order(BaseModel):
    """A model that handlers take."""

    number: int
    note: str = ""


def test_arguments_become_what_the_annotations_say() -> None:
    """Models, times, constrained numbers and free ones: a handler gets its own types from what JSON has."""

    def handler(
        order: Order,
        due: datetime.datetime,
        /,
        count: Annotated[int, Field(gt=0)],
        *rest: float,
        colour: str = "red",
        flag: bool,
        **more: bytes,
    ) -> Any:
        return order, due, count, rest, colour, flag, more

    returned = call(handler, {"number": "7"}, "2026-11-22T10:00:00Z", 3, 1, 2.5, flag=True, extra="text")

    assert (
        Order(number=7),
        datetime.datetime(2026, 11, 22, 10, tzinfo=datetime.UTC),
        3,
        (1.0, 2.5),
        "red",
        True,
        {"extra": b"text"},
    ) == returned


def test_what_does_not_fit_is_told_without_the_values() -> None:
    """Each argument that doesn't fit has a line of its own that names it and never repeats what was sent."""

    def handler(order: Order, due: datetime.datetime, count: Annotated[int, Field(gt=0)] = 1, *rest: float) -> None: ...

    assert (
        "order.number: Input should be a valid integer, unable to parse string as an integer",
        "due: Input should be a valid datetime or date, input is too short",
        "count: Input should be greater than 0",
        "4: Input should be a valid number, unable to parse string as a number",
    ) == problems(handler, {"number": "secret"}, "secret", -5, 1, "secret")
    assert ("order: Missing required argument", "due: Missing required argument") == problems(handler)
    assert (
        "order: Got multiple values for argument",
        "due: Missing required argument",
        "price: Unexpected keyword argument",
    ) == problems(handler, {"number": 1}, order=2, price=3)


class Card(BaseModel):
    """One way to pay."""

    kind: Literal["card"]


class Cash(BaseModel):
    """Another way to pay."""

    kind: Literal["cash"]


def test_an_unknown_tag_is_not_repeated() -> None:
    """Even the kind that a message names may be somebody's secret."""

    def handler(means: Annotated[Card | Cash, Field(discriminator="kind")]) -> None: ...

    assert ("means: Input tag found using 'kind' does not match any of the expected tags: 'card', 'cash'",) == problems(
        handler, {"kind": "it's\nsecret' found using 'kind"}
    )


def test_of_a_thousand_problems_twenty_are_told() -> None:
    """The text of the error stays small, however much doesn't fit."""

    async def handler(numbers: list[int]) -> None:
        """Take numbers."""

    told = problems(handler, ["x"] * 1000)

    assert 21 == len(told)
    assert "numbers.19: Input should be a valid integer, unable to parse string as an integer" == told[19]
    assert "and 980 more problems" == told[20]


def test_too_many_arguments_are_told() -> None:
    """A handler without *args says so of what is too much."""
    assert ("1: Unexpected positional argument",) == problems(_raw_number, 1, 2)


def test_an_error_of_the_handler_is_not_one_of_its_arguments() -> None:
    """Binding runs nothing of the handler, so that its own ValueError can't look like a bad argument."""

    def handler(order: int) -> None:
        raise ValueError("from the handler")

    with pytest.raises(ValueError, match="from the handler"):
        call(handler, 1)


def context_first(context: TaskContext, a: int, b: int = 2) -> Any:
    """Take the context before the arguments."""
    return context, a, b


def context_between(a: int, context: TaskContext, b: int = 2) -> Any:
    """Take the context between the arguments."""
    return context, a, b


def context_last(a: int, b: int = 2, context: TaskContext | None = None) -> Any:
    """Take the context where it may be left out by other callers."""
    return context, a, b


def context_named(a: int, b: int = 2, *, context: TaskContext) -> Any:
    """Take the context by name."""
    return context, a, b


def context_positional(a: int, context: TaskContext, /, b: int = 2) -> Any:
    """Take the context by position only."""
    return context, a, b


def context_annotated(a: int, b: int = 2, *, context: Annotated[TaskContext, "ours"]) -> Any:
    """Take the context under an annotation that says more."""
    return context, a, b


CONTEXT_TAKERS = [context_first, context_between, context_last, context_named, context_annotated]


@pytest.mark.parametrize("function", CONTEXT_TAKERS)
@pytest.mark.parametrize(
    ("args", "kwargs", "b"), [([1], {}, 2), ([1, 3], {}, 3), ([1], {"b": 3}, 3), ([], {"a": 1, "b": 3}, 3)]
)
def test_the_context_is_filled_in_wherever_it_stands(
    function: Callable[..., Any], args: list[int], kwargs: dict[str, int], b: int
) -> None:
    """A TaskContext parameter takes no place among what is sent, by position or by name."""
    assert (CONTEXT, 1, b) == call(function, *args, **kwargs)


def test_the_context_may_stand_where_only_position_counts() -> None:
    """A context between parameters without names is filled in at its place."""
    assert [(CONTEXT, 1, 2), (CONTEXT, 1, 3), (CONTEXT, 1, 3)] == [
        call(context_positional, 1),
        call(context_positional, 1, 3),
        call(context_positional, 1, b=3),
    ]


@pytest.mark.parametrize("function", CONTEXT_TAKERS)
def test_the_context_can_t_be_sent(function: Callable[..., Any]) -> None:
    """A message can't bring what the worker fills in."""
    assert ("context: Unexpected keyword argument",) == problems(function, 1, context={"id": "forged"})


def test_the_context_can_t_be_sent_among_free_names() -> None:
    """A handler that takes any name takes all but the one of its context."""

    def handler(context: TaskContext, **more: Any) -> Any:
        return context, more

    assert (CONTEXT, {"a": 1}) == call(handler, a=1)
    assert ("context: is filled in by the worker and can't be sent",) == problems(handler, context="forged")


def _raw_bytes(payload: bytes) -> Any:
    return payload


def _raw_text(payload: str) -> Any:
    return payload


def _raw_any(payload) -> Any:  # type: ignore[no-untyped-def]  # what the test is about
    return payload


def _raw_number(context: TaskContext, payload: int) -> Any:
    return payload


def _raw_short_text(payload: Annotated[str, Field(max_length=5)]) -> Any:
    return payload


@pytest.mark.parametrize(
    ("function", "body", "argument"),
    [
        (_raw_bytes, b"5", b"5"),
        (_raw_bytes, b"\xff", b"\xff"),
        (_raw_bytes, b"", b""),
        (_raw_text, b"5", "5"),
        (_raw_text, b'"5"', "5"),
        (_raw_text, b"NaN", "NaN"),
        (_raw_text, b"", ""),
        (_raw_text, "Grüße".encode(), "Grüße"),
        (_raw_any, b'{"a":[1]}', {"a": [1]}),
        (_raw_any, b"plain text", "plain text"),
        (_raw_any, b"NaN", "NaN"),
        (_raw_any, b"1e999", "1e999"),
        (_raw_any, b"[1e999]", "[1e999]"),
        (_raw_any, b"\xff\xfe", b"\xff\xfe"),
        (_raw_any, b"null", None),
        (_raw_number, b" 5\n", 5),
        (_raw_number, b'"5"', 5),
        (_raw_short_text, b"12345", "12345"),
    ],
)
def test_a_raw_body_becomes_what_the_first_parameter_wants(
    function: Callable[..., Any], body: bytes, argument: object
) -> None:
    """Bytes stay bytes, text is text, and everything else is JSON if it is JSON, then text, then bytes."""
    assert argument == call(function, RawPayload(body))


@pytest.mark.parametrize(
    ("function", "body", "problem"),
    [
        (_raw_number, b"five", "payload: Input should be a valid integer, unable to parse string as an integer"),
        (_raw_number, b"", "payload: Input should be a valid integer, unable to parse string as an integer"),
        (_raw_number, b"\xff", "payload: Input should be a valid integer, unable to parse string as an integer"),
        (_raw_number, b"NaN", "payload: Input should be a valid integer, unable to parse string as an integer"),
        (_raw_text, b"\xff", "payload: Input should be a valid string, unable to parse raw data as a unicode string"),
        (_raw_short_text, b"123456", "payload: String should have at most 5 characters"),
        (lambda: None, b"5", "0: Unexpected positional argument"),
    ],
)
def test_a_raw_body_that_does_not_fit_is_told(function: Callable[..., Any], body: bytes, problem: str) -> None:
    """A foreign producer's payload is checked like every other argument."""
    assert (problem,) == problems(function, RawPayload(body))
