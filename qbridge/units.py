"""Durations and sizes as people write them: `25s`, `5m`, `10MiB`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

__all__ = ["Duration", "Size", "format_duration", "parse_duration", "parse_size"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
#: Nothing waits longer: 100 years of seconds.
_LONGEST = 100 * 365.25 * 86400.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+)\s*([KMG]i?B|B)")


def parse_duration(given: object) -> float:
    """Return seconds for a number of seconds or a text like `500ms`, `25s`, `1.5m`, `2h`, `7d`.

    Raises:
        ValueError: If it is neither, or is negative or over 100 years.
    """
    if isinstance(given, str):
        match = _DURATION.fullmatch(given.strip())
        if match is None:
            raise ValueError("not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s")
        given = float(match[1]) * _SECONDS[match[2]]
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise ValueError("not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s")  # noqa: TRY004  # pydantic reports ValueError
    if not 0 <= given <= _LONGEST:
        raise ValueError("a duration is 0 or more seconds, and at most 100 years")
    return float(given)


def parse_size(given: object) -> int:
    """Return bytes for a number of bytes or a text like `64KiB`, `10MB`.

    Raises:
        ValueError: If it is neither, or is negative.
    """
    if isinstance(given, str):
        match = _SIZE.fullmatch(given.strip())
        if match is None:
            raise ValueError("not a size: write a number of bytes, or a number with B, KB, MB, GB, KiB, MiB or GiB")
        return int(match[1]) * _BYTES[match[2]]
    if isinstance(given, bool) or not isinstance(given, int):
        raise ValueError("not a size: write a number of bytes, or a number with B, KB, MB, GB, KiB, MiB or GiB")  # noqa: TRY004  # pydantic reports ValueError
    if given < 0:
        raise ValueError("a size is 0 or more bytes")
    return given


def format_duration(seconds: float) -> str:
    """Return a short text for people: `400ms`, `12s`, `5m`, `2.5h`."""
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.3g}ms"
    for unit in ("d", "h", "m"):
        if seconds >= _SECONDS[unit]:
            return f"{seconds / _SECONDS[unit]:.3g}{unit}"
    return f"{seconds:.3g}s"


#: Seconds as a float; in YAML also text like `500ms`, `25s`, `5m`, `2h`, `7d`.
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$"}]}
    ),
]

#: Bytes as an int; in YAML also text like `64KiB`, `10MiB`, `1GiB`, `10MB`.
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+\s*([KMG]i?)?B$"}]}
    ),
]
