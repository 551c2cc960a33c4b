"""Raw queues: every body is a task, and what is sent arrives as it was."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from qbridge import Delivery, HandlerRegistry, TaskMessage, UndecodableMessageError
from qbridge.codec import RawCodec
from tests.support.fuzzing import JSON_TEXTS, JSON_VALUES, fuzz

registry = HandlerRegistry()
CODEC = RawCodec("work")


@registry.task
async def take_bytes(payload: bytes) -> None:
    """Take the body as it is."""


@registry.task
async def take_text(payload: str) -> None:
    """Take the body as text."""


@registry.task
async def take_any(payload: Any) -> None:
    """Take what the body says."""


def arriving(handler: str, body: bytes) -> Any:
    """Return what a handler gets of a body."""
    message = CODEC.decode(Delivery(body=body, receipt=1, message_id="b1"))
    return registry[handler].bind(message, None)[0][0]


def numbers_in(value: Any) -> list[float]:
    """Return all floats in a value."""
    if isinstance(value, float):
        return [value]
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for each in below for number in numbers_in(each)]


@given(st.binary(max_size=200))
@fuzz(80)
def test_bytes_arrive_as_they_were_sent(body: bytes) -> None:
    """Through the codec and back no byte changes."""
    assert body == CODEC.encode(TaskMessage(task="work", args=[body]))
    assert body == arriving("take_bytes", body)


@given(st.text(st.characters(codec="utf-8")) | JSON_TEXTS.filter(str.isprintable))
@example("1e999")
@example("[1e999]")
@example('"a"')
@fuzz(120)
def test_text_arrives_as_it_was_sent(text: str) -> None:
    """Also text that reads as JSON, or nearly."""
    body = CODEC.encode(TaskMessage(task="work", args=[text]))

    assert [text, text] == [arriving("take_text", body), arriving("take_any", body)]


@given(JSON_VALUES)
@fuzz(80)
def test_values_arrive_as_they_were_sent(value: Any) -> None:
    """Numbers, lists, objects: whatever JSON holds."""
    assert value == arriving("take_any", CODEC.encode(TaskMessage(task="work", args=[value])))


@given(st.binary(max_size=100) | JSON_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
@fuzz(150)
def test_no_body_brings_an_infinite_number(body: bytes) -> None:
    """What no JSON has doesn't come out of one: the body is text or bytes then."""
    assert all(map(math.isfinite, numbers_in(arriving("take_any", body))))


@given(st.text() | st.binary() | st.floats() | st.sets(st.integers()) | st.lists(st.floats()))
@fuzz(80)
def test_what_a_raw_queue_takes_can_be_read(value: Any) -> None:
    """Whatever a program passes is written, or refused to the program."""
    try:
        body = CODEC.encode(TaskMessage(task="work", args=[value]))
    except UndecodableMessageError:
        return
    arriving("take_any", body)
