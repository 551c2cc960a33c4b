"""Durations and sizes as people write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from qbridge.units import Duration, Size, format_duration, parse_duration, parse_size

NOT_A_DURATION = "not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s"
NOT_A_SIZE = "not a size: write a number of bytes, or a number with B, KB, MB, GB, KiB, MiB or GiB"


@pytest.mark.parametrize(
    "written, seconds",
    [
        (0, 0.0),
        (25, 25.0),
        (0.25, 0.25),
        ("0s", 0.0),
        ("500ms", 0.5),
        ("25s", 25.0),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("7d", 604_800.0),
        (" 25 s ", 25.0),
    ],
)
def test_a_duration_is_read_as_seconds(written: object, seconds: float) -> None:
    """A number is seconds already; a text has one number and one unit."""
    assert seconds == parse_duration(written)


@pytest.mark.parametrize(
    "written", ["", "25", "s", "-1s", "1.s", ".5s", "1e3s", "1m30s", "25S", "5 min", "1,5s", "25s\n5"]
)
def test_a_text_that_is_no_duration_is_refused(written: str) -> None:
    """Anything but one number with one unit is an error that says what to write."""
    with pytest.raises(ValueError, match=re.escape(NOT_A_DURATION)):
        parse_duration(written)


@pytest.mark.parametrize("written", [None, True, False, [], {"s": 5}, b"25s"])
def test_a_value_of_another_type_is_no_duration(written: object) -> None:
    """A boolean is not 0 or 1 second."""
    with pytest.raises(ValueError, match=re.escape(NOT_A_DURATION)):
        parse_duration(written)


@pytest.mark.parametrize("written", [-1, -0.001, float("inf"), float("nan"), 10**400, "9" * 400 + "s", "40000d"])
def test_a_number_that_no_clock_counts_is_no_duration(written: object) -> None:
    """Seconds are 0 or more, and at most 100 years."""
    with pytest.raises(ValueError, match="a duration is 0 or more seconds, and at most 100 years"):
        parse_duration(written)


@pytest.mark.parametrize(
    "written, size",
    [
        (0, 0),
        (1024, 1024),
        ("0B", 0),
        ("512B", 512),
        ("64KiB", 65_536),
        ("10MiB", 10_485_760),
        ("1GiB", 1_073_741_824),
        ("64KB", 64_000),
        ("10MB", 10_000_000),
        ("1GB", 1_000_000_000),
        (" 10 MiB ", 10_485_760),
    ],
)
def test_a_size_is_read_as_bytes(written: object, size: int) -> None:
    """A number is bytes already; units with an i count in 1024s, those without in 1000s."""
    assert size == parse_size(written)


@pytest.mark.parametrize(
    "written", ["", "10", "MiB", "-1B", "1.5MiB", "10 mib", "10K", "10M", "10Mi", "1TiB", None, True, 1.5, []]
)
def test_what_is_no_size_is_refused(written: object) -> None:
    """Anything but bytes, or one whole number with one unit, is an error that says what to write."""
    with pytest.raises(ValueError, match=re.escape(NOT_A_SIZE)):
        parse_size(written)


def test_a_size_below_zero_is_refused() -> None:
    """Bytes are 0 or more."""
    with pytest.raises(ValueError, match="a size is 0 or more bytes"):
        parse_size(-1)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0s"),
        (0.4, "400ms"),
        (1, "1s"),
        (12.25, "12.2s"),
        (60, "1m"),
        (90, "1.5m"),
        (3600, "1h"),
        (9000, "2.5h"),
        (86_400, "1d"),
    ],
)
def test_a_duration_is_written_short(seconds: float, text: str) -> None:
    """The largest unit that fits, with at most three digits."""
    assert text == format_duration(seconds)


@given(st.floats(min_value=0.05, max_value=1e6))
def test_what_is_written_is_a_duration_again(seconds: float) -> None:
    """A duration that was formatted can be read, and is the same but for rounding."""
    again = parse_duration(format_duration(seconds))

    assert seconds == pytest.approx(again, rel=0.01, abs=0.05)


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,3})? ?(ms|s|m|h|d|B|KB|KiB|MiB|GB)", fullmatch=True))
def test_the_json_schema_takes_the_texts_that_are_read(text: str) -> None:
    """What the published pattern takes can be read, and what can't be read it doesn't take."""
    for annotation in (Duration, Size):
        adapter: TypeAdapter[object] = TypeAdapter(annotation)
        pattern = adapter.json_schema()["anyOf"][1]["pattern"]
        try:
            adapter.validate_python(text.strip())
            can_be_read = True
        except ValidationError:
            can_be_read = False

        assert can_be_read == (re.search(pattern, text.strip()) is not None)
