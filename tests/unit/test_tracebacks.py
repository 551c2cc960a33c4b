"""The text of an exception: what Python says of it, within bounds, and cheaply for what fails again and again."""

from __future__ import annotations

import linecache
import traceback

import pytest

from qbridge import tracebacks
from qbridge.source import MAX_ERROR_LENGTH
from qbridge.tracebacks import describe_error


def inner(text: str) -> None:
    raise ValueError(text)


def caught(text: str = "no") -> ValueError:
    """Return an exception that went through two functions."""
    try:
        inner(text)
    except ValueError as exc:
        return exc
    raise AssertionError


def test_it_is_what_python_says() -> None:
    """Type and message first, then the frames as `traceback` has them, at the first time and later."""
    exc = caught()
    expected = "ValueError: no\n" + "".join(traceback.format_tb(exc.__traceback__)).rstrip()

    assert [expected, expected] == [describe_error(exc), describe_error(exc)]
    assert "ValueError" == describe_error(ValueError())


def test_a_place_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails a thousand times has its lines read once."""
    first = describe_error(caught())

    def read(*args: object) -> str:
        raise AssertionError("a file was looked at")

    monkeypatch.setattr(linecache, "checkcache", read)
    monkeypatch.setattr(linecache, "getline", read)

    assert first.replace("no", "yes", 1) == describe_error(caught("yes"))


def test_its_end_is_kept_where_it_is_too_long() -> None:
    """Of a deep traceback the last lines are told, which are those of the fault."""

    def fall(depth: int) -> None:
        if not depth:
            raise ValueError("deep")
        fall(depth - 1)

    with pytest.raises(ValueError, match="deep") as caught_:
        fall(200)

    text = describe_error(caught_.value)
    assert MAX_ERROR_LENGTH - 1 <= len(text) <= MAX_ERROR_LENGTH
    assert text.startswith("ValueError: deep\n")
    assert text.endswith('raise ValueError("deep")')


def test_remembered_places_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that are made again and again don't fill the memory."""
    monkeypatch.setattr(tracebacks, "_MOST_PLACES", 5)
    monkeypatch.setattr(tracebacks, "_places", {})
    for number in range(20):
        scope: dict[str, object] = {}
        exec(f"def fail{number}(): raise ValueError({number})", scope)
        with pytest.raises(ValueError, match=str(number)) as caught_:
            scope[f"fail{number}"]()  # type: ignore[operator]  # made by exec

        assert str(number) in describe_error(caught_.value)

    assert 5 >= len(tracebacks._places)
