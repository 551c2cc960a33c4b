"""Whatever stands where a duration or a size is wanted is one, or a ValueError in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qbridge.units import format_duration, parse_duration, parse_size
from tests.support.fuzzing import JSON_VALUES, fuzz

NUMBERS = st.integers() | st.floats() | st.from_regex(r"[0-9]{1,400}([.][0-9]{1,400})?")
UNITS = st.sampled_from(["", " ", "ms", "s", "m", "h", "d", "B", "KB", "KiB", "GiB", "TB", "µs", "\n", "٣s", "e9s"])
WRITTEN = st.tuples(NUMBERS, UNITS).map(lambda parts: f"{parts[0]}{parts[1]}")


@pytest.mark.parametrize("parse", [parse_duration, parse_size])
@given(WRITTEN | NUMBERS | JSON_VALUES | st.text() | st.binary())
@example("9" * 5000 + "s")
@example("٣s")
@fuzz(200)
def test_anything_is_read_or_refused(parse: Callable[[object], float], written: Any) -> None:
    """What is read is finite and not negative; nothing makes the reading fail in another way."""
    try:
        value = parse(written)
    except ValueError as exc:
        text = str(exc)
    else:
        assert math.isfinite(value)
        assert value >= 0
        return
    assert text
    assert "\n" not in text


@given(st.floats(min_value=0, allow_nan=False))
@fuzz(100)
def test_every_duration_has_a_text(seconds: float) -> None:
    """It is short, whatever it says."""
    assert 2 <= len(format_duration(seconds)) <= 12
