"""Whatever arguments a message has, the handler gets what its annotations say, or the message is invalid."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, Field, FiniteFloat

from qbridge import (
    Delivery,
    Handler,
    HandlerRegistry,
    InvalidArgumentsError,
    TaskContext,
    TaskMessage,
    UndecodableMessageError,
)
from qbridge.codec import JsonCodec, RawCodec
from tests.support.fuzzing import JSON_TEXTS, JSON_VALUES, fuzz, tampered

LONGEST_ERROR = 30_000

registry = HandlerRegistry()


class Colour(Enum):
    """An enumeration."""

    RED = "red"


class Cat(BaseModel):
    """One kind of pet."""

    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    """Another kind of pet, which may have puppies."""

    kind: Literal["dog"]
    puppies: list[Dog] = Field(default_factory=list)


class Point(NamedTuple):
    """A named tuple."""

    x: float
    y: float


@dataclass
class Papers:
    """A dataclass."""

    born: date


@registry.task
async def scalars(a: int = 0, b: float = 0.0, c: str = "", d: bytes = b"", e: bool = False) -> None:
    """Take plain values."""


@registry.task
async def times(a: datetime, b: date | None = None, c: time | None = None, d: timedelta | None = None) -> None:
    """Take times."""


@registry.task
async def things(a: Decimal | UUID, b: Colour = Colour.RED, c: PurePath | None = None, d: AnyUrl | None = None) -> None:
    """Take what is written as text."""


@registry.task
async def models(pet: Annotated[Cat | Dog, Field(discriminator="kind")], *, papers: Papers | None = None) -> None:
    """Take models."""


@registry.task
async def collections(a: list[int], b: dict[str, Point] | None = None, c: tuple[int, ...] = (), *d: set[str]) -> None:
    """Take collections."""


@registry.task
async def anything(context: TaskContext, /, *args: Any, **kwargs: Any) -> None:
    """Take all there is."""


@registry.task
async def limited(a: Annotated[int, Field(ge=0, lt=10)], b: FiniteFloat = 0.0, /, self: Any = None) -> None:
    """Take little."""


HANDLERS = list(registry.handlers.values())
KEYS = st.sampled_from(["a", "b", "c", "d", "pet", "papers", "self", "args", "kwargs", "context", "a b", "", "kind"])
NEAR_MISSES = st.sampled_from(
    [
        {"kind": "cat"},
        {"kind": "dog", "puppies": [{"kind": "dog"}]},
        {"kind": "cow"},
        {"x": 1, "y": "NaN"},
        [1, 2],
        "red",
    ]
) | st.sampled_from(
    ["1e999", "NaN", "-inf", "2026-01-01", "P1Y", "12:00", "9" * 5000, 10**400, 1e300, -1, "\x00", "red"]
)
VALUES = JSON_VALUES | NEAR_MISSES | st.lists(NEAR_MISSES, max_size=3)


def bound_or_refused(handler: Handler, message: TaskMessage) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments for a handler; None if they are refused, in words that are text of a bounded length."""
    try:
        return handler.bind(message, None)
    except InvalidArgumentsError as exc:
        text = str(exc).encode()
    assert 0 < len(text) <= LONGEST_ERROR
    return None


@given(st.sampled_from(HANDLERS), st.lists(VALUES, max_size=5), st.dictionaries(KEYS | st.text(), VALUES, max_size=4))
@fuzz(80)
def test_any_arguments_are_bound_or_refused(handler: Handler, args: list[Any], kwargs: dict[str, Any]) -> None:
    """No JSON makes the binding fail in another way."""
    bound_or_refused(handler, TaskMessage(task=handler.name, args=args, kwargs=kwargs))


@given(
    st.sampled_from(HANDLERS),
    tampered(
        st.builds(
            TaskMessage,
            id=st.just("m1"),
            task=st.just("a"),
            enqueued_at=st.just(1.0),
            args=st.lists(VALUES, max_size=3),
            kwargs=st.dictionaries(KEYS, VALUES, max_size=3),
        ).map(JsonCodec().encode)
    ),
)
@fuzz(120)
def test_whatever_is_read_is_bound_or_refused(handler: Handler, body: bytes) -> None:
    """The same for what comes out of the codec."""
    try:
        message = JsonCodec().decode(Delivery(body=body, receipt=1, message_id="b1"))
    except UndecodableMessageError:
        return
    bound_or_refused(handler, message)


@given(st.sampled_from(HANDLERS), st.binary(max_size=100) | JSON_TEXTS.map(lambda text: text.encode(errors="replace")))
@example(HANDLERS[0], b"9" * 4301)
@fuzz(150)
def test_any_raw_body_is_bound_or_refused(handler: Handler, body: bytes) -> None:
    """A raw queue holds anything at all."""
    message = RawCodec(handler.name).decode(Delivery(body=body, receipt=1, message_id="b1"))

    bound_or_refused(handler, message)
