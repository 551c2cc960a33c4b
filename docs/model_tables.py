"""Tables of a pydantic model's keys, in the words of somebody who writes a YAML file."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from qbridge import RetryPolicy
from qbridge.config import (
    JsonCodecConfig,
    LoggingConfig,
    LoopConfig,
    ProbesConfig,
    QueueConfig,
    RawCodecConfig,
    RecycleConfig,
    RetryBudgetConfig,
    ShutdownConfig,
    SigningConfig,
)
from qbridge.config.model_keys import descriptions, key_names
from qbridge.units import parse_duration, parse_size

__all__ = ["SECTIONS", "model_table", "table"]

#: The anchor under which each model is told on the page of the configuration.
SECTIONS: dict[type[BaseModel], str] = {
    QueueConfig: "queues",
    JsonCodecConfig: "codec-json",
    RawCodecConfig: "codec-raw",
    LoopConfig: "loops",
    RetryPolicy: "retry",
    RetryBudgetConfig: "retry_budget",
    RecycleConfig: "recycle",
    SigningConfig: "signing",
    ProbesConfig: "probes",
    ShutdownConfig: "shutdown",
    LoggingConfig: "logging",
}

_UNITS: dict[str, list[tuple[str, float]]] = {
    "duration": [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 0.001)],
    "size": [("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)],
}


def model_table(model: type[BaseModel], without: Sequence[str] = ()) -> str:
    """Return the keys of a model with their types, defaults and descriptions; `without` some of its fields."""
    described = descriptions(model)
    rows = [
        [f"`{key}`", _type_text(field.annotation, field.metadata), _default(field), described.get(name, "")]
        for key, (name, field) in zip(key_names(model), model.model_fields.items(), strict=True)
        if name not in without
    ]
    return table(["key", "type", "default", "what it is"], rows)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(headings), ["---"] * len(headings), *rows]
    drawn = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {line} |".replace("|  |", "| |") for line in drawn)


def _type_text(annotation: Any, metadata: Iterable[Any]) -> str:
    """Return a type as the writer of a YAML file thinks of it."""
    while get_origin(annotation) is Annotated:
        annotation, *further = get_args(annotation)
        metadata = [*metadata, *further]
    metadata = [part for entry in metadata for part in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    unit = _unit(metadata)
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not NoneType]
        return " or ".join(_type_text(member, metadata) for member in members)
    return (unit or _plain_type(annotation)) + _bounds(metadata, unit)


def _unit(metadata: Iterable[Any]) -> str:
    readers = {entry.func for entry in metadata if isinstance(entry, BeforeValidator)}
    return "duration" if parse_duration in readers else "size" if parse_size in readers else ""


def _plain_type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is dict:
        return f"mapping of names to {_type_text(arguments[1], [])}"
    if origin is list:
        return f"list of {_type_text(arguments[0], [])}"
    if annotation is Any:
        return "anything"
    if annotation in SECTIONS:
        return f"[{SECTIONS[annotation]}](#{SECTIONS[annotation]})"
    if inspect.isclass(annotation):
        if issubclass(annotation, Enum):
            return " or ".join(f"`{member.value}`" for member in annotation)
        if issubclass(annotation, (SecretStr, SecretBytes, Secret)):
            return "text, never shown"
        return {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", Path: "path"}.get(
            annotation, annotation.__name__
        )
    return str(annotation)


def _bounds(metadata: Iterable[Any], unit: str) -> str:
    limits = {
        name: getattr(entry, name) for entry in metadata for name in ("gt", "ge", "lt", "le") if hasattr(entry, name)
    }
    words = {"gt": "over", "ge": "at least", "lt": "under", "le": "at most"}
    shown = {name: _with_unit(limit, unit) for name, limit in limits.items() if limit is not None}
    if {"ge", "le"} <= set(shown):
        return f", {shown['ge']} to {shown['le']}"
    return "".join(f", {words[name]} {limit}" for name, limit in shown.items())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    extra = field.json_schema_extra
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(extra, dict) and "default" in extra:
        value = extra["default"]
    unit = _unit(field.metadata)
    if value is None:
        return ""
    if isinstance(value, BaseModel):
        return "its own"
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{name}: {{}}' for name in value)}}}`"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        value = str(value).lower()
    if value == "":
        value = '""'
    return f"`{_with_unit(value, unit)}`"


def _with_unit(value: Any, unit: str) -> str:
    for name, factor in _UNITS.get(unit, ()):
        if value and (count := round(value / factor, 6)) >= 1 and count == int(count):
            return f"{count:g}{name}"
    return f"{value:g}" if isinstance(value, float) else str(value)
