"""The exception tree: who catches what, what the exceptions carry, and what they say."""

from __future__ import annotations

import re

import pytest

from qbridge import errors
from qbridge.errors import (
    BackendNotFoundError,
    ConfigError,
    InvalidArgumentsError,
    MessageTooLargeError,
    QBridgeError,
    Reject,
    Retry,
    Signal,
    UnknownQueueError,
    UnknownTaskError,
    nearest_name_hint,
)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Each class is drawn below its base, at its depth, and none is missing from the drawing."""
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}([│ ├└─]*)([A-Z]\w+)", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            drawn[match[2]] = above[depth - 1] if depth else "object"

    classes = {name for name in errors.__all__ if name[0].isupper()}
    assert classes | {"Exception"} == set(drawn)
    assert {name: drawn[name] for name in classes} == {
        name: getattr(errors, name).__mro__[1].__name__ for name in classes
    }


def test_control_signals_are_no_faults() -> None:
    """Who catches the faults of qbridge doesn't catch what a handler raises to steer it, and the other way round."""
    assert not issubclass(Signal, QBridgeError)
    assert not issubclass(QBridgeError, Signal)


@pytest.mark.parametrize(
    ("error", "text", "fields"),
    [
        (ConfigError("a: b", "c: d"), "a: b\nc: d", {"problems": ("a: b", "c: d")}),
        (BackendNotFoundError("x", "no x"), "no x", {"name": "x", "problems": ("no x",)}),
        (
            UnknownTaskError("gret", ["pay", "greet"]),
            "no handler is registered for task 'gret' (known: greet, pay); did you mean 'greet'?",
            {"task": "gret"},
        ),
        (UnknownTaskError("greet", []), "no handler is registered for task 'greet' (known: none)", {"task": "greet"}),
        (
            UnknownQueueError("order", ["orders", "default"]),
            "no queue is named 'order' (known: default, orders); did you mean 'orders'?",
            {"queue": "order"},
        ),
        (
            InvalidArgumentsError("pay", ["a: Field required", "b: bad"]),
            "arguments of task 'pay' don't fit: a: Field required; b: bad",
            {"task": "pay", "problems": ("a: Field required", "b: bad")},
        ),
        (
            MessageTooLargeError(11, 10),
            "message has 11 bytes, over the limit of 10 (raise max_message_size of the queue)",
            {"size": 11, "limit": 10},
        ),
        (Retry("busy", delay=3), "busy", {"reason": "busy", "delay": 3}),
        (Retry(), "", {"reason": "", "delay": None}),
        (Reject("no such order"), "no such order", {"reason": "no such order"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_tells_what_failed_and_carries_it(error: Exception, text: str, fields: dict[str, object]) -> None:
    """The text names the value and the way out; the fields are for programs."""
    assert text == str(error)
    assert fields == {name: getattr(error, name) for name in fields}


@pytest.mark.parametrize("delay", [-1, float("inf"), float("nan")])
def test_a_retry_wants_a_delay_that_ends(delay: float) -> None:
    """A handler that asks for an impossible delay is told where it asks."""
    with pytest.raises(ValueError, match="delay must be 0 or more seconds, not"):
        Retry(delay=delay)


@pytest.mark.parametrize(
    ("given", "known", "hint"),
    [
        ("redsi", ["memory", "redis"], "; did you mean 'redis'?"),
        ("kafka", ["memory", "redis"], ""),
        ("anything", [], ""),
    ],
)
def test_the_nearest_name_is_offered_only_if_it_is_near(given: str, known: list[str], hint: str) -> None:
    """A slip of the finger gets a hint; a name that is nothing like the known ones gets none."""
    assert hint == nearest_name_hint(given, known)
