"""What a sender makes of messages before anything is sent, and what it refuses."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator

import pytest

from qbridge import MessageTooLargeError, Outgoing, TaskMessage, UndecodableMessageError
from qbridge.codec import JsonCodec, RawCodec
from qbridge.message import MessageFields, fields_of
from qbridge.sender import Sender
from qbridge_memory import MemoryBroker
from tests.support.scripted_source import ScriptedSource


class DelaylessSource(ScriptedSource):
    """A source whose broker can neither delay messages nor carry headers."""

    capabilities = dataclasses.replace(ScriptedSource.capabilities, delay=False, headers=False)


def _message(*args: object, task: str = "pay", headers: dict[str, str] | None = None) -> MessageFields:
    return fields_of(TaskMessage(id="m1", task=task, args=list(args), headers=headers or {}, enqueued_at=None))


def test_a_message_is_encoded_with_its_id_and_delay() -> None:
    """What goes to the broker carries the message's id, and its headers in the envelope."""
    [ready] = _sender().encode([_message(1, headers={"h": "x"})], 2.5)

    assert ("m1", 2.5, {}) == (ready.message_id, ready.delay, dict(ready.headers))
    assert b'"headers":{"h":"x"}' in ready.body


def test_the_size_limit_is_that_of_the_body() -> None:
    """A body of just the limit passes, one byte more doesn't."""
    encode = _sender().encode
    [empty] = encode([_message("")], 0.0)
    room = 200 - len(empty.body)

    [full] = encode([_message("x" * room)], 0.0)
    with pytest.raises(MessageTooLargeError) as refusal:
        encode([_message(""), _message("x" * (room + 1))], 0.0)

    assert 200 == len(full.body)
    assert (201, 200) == (refusal.value.size, refusal.value.limit)


def test_messages_are_encoded_as_they_are_made() -> None:
    """A program that makes messages one by one has no more than some of them at once; their order is kept."""

    class Text(str):
        __slots__ = ("__weakref__",)

    made: list[weakref.ref[Text]] = []
    most = 0

    def make() -> Iterator[MessageFields]:
        nonlocal most
        for number in range(1_000):
            text = Text(number)
            made.append(weakref.ref(text))
            most = max(most, sum(ref() is not None for ref in made))
            yield fields_of(TaskMessage(id=f"m{number}", task="pay", args=[text]))

    ready = _sender().encode(make(), 0.0)

    assert [f"m{number}" for number in range(1_000)] == [outgoing.message_id for outgoing in ready]
    assert 1 <= most <= 100


@pytest.mark.parametrize(
    ("encode", "kind", "text"),
    [
        (lambda: _encode(_message(), -1), ValueError, "delay must be 0 or more seconds, not -1"),
        (lambda: _encode(_message(), float("inf")), ValueError, "delay must be 0 or more seconds, not inf"),
        (lambda: _encode(_message(), float("nan")), ValueError, "delay must be 0 or more seconds, not nan"),
        (
            lambda: _encode(_message(), 0.1),
            ValueError,
            "queue 'orders' can't delay messages: its broker has no such ability",
        ),
        (
            lambda: _encode(_message(1, headers={"h": "x"}), 0.0, raw=True),
            ValueError,
            "queue 'orders' can't carry headers: neither its codec nor its broker has any",
        ),
        (
            lambda: _encode(_message(object()), 0.0),
            UndecodableMessageError,
            "arguments of task 'pay' are not JSON: Unable to serialize unknown type: <class 'object'>",
        ),
        (
            lambda: _encode(_message(1, 2), 0.0, raw=True),
            UndecodableMessageError,
            "a raw queue carries one positional argument, not 2 positional and 0 named ones",
        ),
    ],
)
def test_what_the_queue_can_t_take_is_refused(
    encode: Callable[[], list[Outgoing]], kind: type[Exception], text: str
) -> None:
    """The caller is told before anything is sent."""
    with pytest.raises(kind) as refusal:
        encode()

    assert text == str(refusal.value)


def _encode(message: MessageFields, delay: float, *, raw: bool = False) -> list[Outgoing]:
    source = DelaylessSource(MemoryBroker())
    codec = RawCodec("pay") if raw else JsonCodec()
    return Sender("orders", source, codec=codec, max_message_size=200).encode([message], delay)


def _sender() -> Sender:
    return Sender("orders", ScriptedSource(MemoryBroker()), codec=JsonCodec(), max_message_size=200)
