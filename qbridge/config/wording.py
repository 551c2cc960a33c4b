"""One wrong value in the words of the house: the key, what was given, what is known or expected, the nearest name.

Values are looked up in the document rather than taken from pydantic, so that they are shown as they were written, and
what is secret or came from an environment variable is not shown at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from qbridge.config.document import ABSENT, Document, KeyPath, Place, format_path
from qbridge.config.model_keys import Found, find_key, union_tags
from qbridge.config.yaml_scalars import typed_plain_scalar
from qbridge.errors import nearest_name_hint
from qbridge.message import NAME_PATTERN

__all__ = ["Finding", "expected_of", "wording"]

_LONGEST_VALUE = 60

_NAME_RULE = "a name has 1 to 128 letters, digits, '_', '.', ':' or '-'"

_TEXT, _MAPPING, _LIST, _BOOLEAN = "text", "a mapping", "a list", "true or false"
_WHOLE, _NUMBER = "a whole number", "a number"
_EMPTY = "empty"

#: pydantic's error types for values of a wrong type, and what they ask for.
_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("string_type", "string_sub_type", "bytes_type"), _TEXT),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing", "decimal_type", "decimal_parsing"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), _BOOLEAN),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"), _LIST),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"), _MAPPING),
    "finite_number": "a finite number",
    "none_required": "left out",
    "path_type": "a path",
    "string_unicode": "valid Unicode text",
}

#: pydantic's error types for values out of bounds: the bound's name in the error's context, and the words for it.
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than": ("gt", "over {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "under {}"),
    "less_than_equal": ("le", "at most {}"),
    "multiple_of": ("multiple_of", "a multiple of {}"),
}

#: pydantic's error types for lengths: the limit's name in the error's context, the words, and what is counted.
_LENGTHS: Mapping[str, tuple[str, str, tuple[str, str]]] = {
    "string_too_short": ("min_length", "at least", ("character", "characters")),
    "string_too_long": ("max_length", "at most", ("character", "characters")),
    "bytes_too_short": ("min_length", "at least", ("byte", "bytes")),
    "bytes_too_long": ("max_length", "at most", ("byte", "bytes")),
    "too_short": ("min_length", "at least", ("entry", "entries")),
    "too_long": ("max_length", "at most", ("entry", "entries")),
}

_UNITS: Mapping[str | None, Sequence[tuple[str, int]]] = {
    "duration": (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)),
    "size": (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)),
}

_CREDENTIALS = re.compile(r"(?<=://)\S+@")
_PASSWORD = re.compile(r"://[^:@/]*:(\S+)@")
_QUOTED = re.compile(r"'([^']*)'")


@dataclass(slots=True)
class Finding:
    """One wrong value.

    Attributes:
        error: What pydantic said first.
        found: What the models say of the place.
        path: Where it is in the document.
        expected: What the value must be, each as it goes on after "must be"; [] if the error says something else.
        is_secret: The value must never be shown.
    """

    error: ErrorDetails
    found: Found
    path: KeyPath
    expected: list[str] = field(default_factory=list)
    is_secret: bool = False

    @property
    def is_about_key(self) -> bool:
        """The key itself is wrong, not the value under it."""
        return self.error["loc"][-1:] == ("[key]",)


def expected_of(error: ErrorDetails, found: Found) -> str | None:
    """Return what the value must be, as it goes on after "must be"; None if the error says something else."""
    kind, context = error["type"], error.get("ctx", {})
    if error["loc"][-1:] == ("[key]",):
        return None
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return words.format(_with_unit(context[name], found.unit))
    if names := _choices(error):
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if kind not in ("value_error", "assertion_error") and error["msg"].startswith("Input should be "):
        return error["msg"].removeprefix("Input should be ")
    return None


def wording(document: Document, finding: Finding) -> str:
    """Return the text of a problem, without its place."""
    kind, context = finding.error["type"], finding.error.get("ctx", {})
    key = format_path(finding.path) or "the configuration"
    if finding.expected:
        expected = " or ".join(finding.expected)
        if _given(document, finding) == _EMPTY:
            return f"{key} is empty: it must be {expected}"
        return f"{key} must be {expected}, not {_given(document, finding)}{_advice(document, finding)}"
    if kind == "missing":
        return f"{key} is missing{_description(context.get('known') or finding.found.description)}"
    if kind == "extra_forbidden":
        known = finding.found.siblings
        return f"{key} is not a known key (known: {', '.join(known)}){nearest_name_hint(str(finding.path[-1]), known)}"
    if kind == "union_tag_not_found":
        return f"{key} is missing (known: {', '.join(union_tags(finding.found))})"
    if kind in _LENGTHS:
        name, words, (one, several) = _LENGTHS[kind]
        value = document.value_at(finding.path)
        given = _given(document, finding) if isinstance(value, str) else context["actual_length"]
        return f"{key} must have {words} {context[name]} {one if context[name] == 1 else several}, not {given}"
    if kind == "string_pattern_mismatch":
        rule = _NAME_RULE if context["pattern"] == NAME_PATTERN else f"it must match {context['pattern']}"
        return _sentence(document, finding, key, rule)
    message = re.sub(r"^(Value error|Assertion failed), ", "", finding.error["msg"])
    return _sentence(document, finding, key, _without_hidden(document, finding, message))


def _sentence(document: Document, finding: Finding, key: str, message: str) -> str:
    """Return a sentence of the key, what was given, and a message; one like "not a duration" goes on after them."""
    value = document.value_at(finding.path)
    if finding.is_about_key or value is ABSENT:
        return f"{key}: {message}"
    if message.startswith(("not ", "which ")):
        return f"{key} is {_given(document, finding)}, {message}"
    if finding.is_secret or isinstance(value, (Mapping, list, BaseModel)):
        return f"{key}: {message}"
    return f"{key} is {_given(document, finding)}: {message}"


def _given(document: Document, finding: Finding) -> str:
    """Return what was written, shortened; never a secret, nor the value of a variable."""
    value, place = document.value_at(finding.path), document.places.get(finding.path, Place())
    if place.variables:
        return f"the value of {' and '.join(f'${{{name}}}' for name in place.variables)}"
    if isinstance(value, (Mapping, BaseModel)):
        return _MAPPING
    if isinstance(value, (list, tuple)):
        return _LIST
    if value is None or value is ABSENT:
        return _EMPTY
    if finding.is_secret:
        kind = "a text" if isinstance(value, str) else "a value" if isinstance(value, bool) else _NUMBER
        return f"{kind} that is not shown"
    if isinstance(value, str):
        return repr(_shortened(_CREDENTIALS.sub("***@", value)))
    if place.text is not None:
        return _shortened(place.text)
    return str(value).lower() if isinstance(value, bool) else _shortened(repr(value))


def _advice(document: Document, finding: Finding) -> str:
    """Return how to write what was probably meant; "" if that can't be told."""
    value, place = document.value_at(finding.path), document.places.get(finding.path, Place())
    if place.variables or (finding.is_secret and isinstance(value, str)):
        return ""
    if choices := _choices(finding.error):
        return nearest_name_hint(value, choices) if isinstance(value, str) else ""
    if place.is_override or len(finding.expected) != 1:
        return ""
    [expected] = finding.expected
    if not isinstance(value, str):
        return " (put it in quotes)" if expected == _TEXT and isinstance(value, (int, float)) else ""
    if expected == _MAPPING and value in union_tags(finding.found):
        return f" (write {{{finding.found.discriminator}: {value}}})"
    if expected == _LIST:
        return f" (write [{value}])" if re.fullmatch(r"[\w.:-]{1,60}", value) else ""
    if expected == _BOOLEAN and value.lower() in ("yes", "no", "on", "off", "true", "false"):
        return f" (write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'})"
    if expected in (_WHOLE, _NUMBER) and isinstance(typed_plain_scalar(value), (int, float)):
        return " (write it without quotes)"
    return ""


def _without_hidden(document: Document, finding: Finding, message: str) -> str:
    """Return a message without the secrets and values of variables that its author may have put into it."""
    for hidden in sorted(set(_hidden_texts(document, finding)), key=len, reverse=True):
        message = message.replace(hidden, "***").replace(repr(hidden)[1:-1], "***")
    return " ".join(_CREDENTIALS.sub("***@", message).split())


def _hidden_texts(document: Document, finding: Finding) -> Iterator[str]:
    for below, text in _texts(document.value_at(finding.path)):
        place = document.places.get((*finding.path, *below), Place())
        if finding.is_secret or place.variables or find_key(finding.found.annotation, below).is_secret:
            # One or two characters are no secret, and would tear every word.
            yield from (hidden for hidden in (text, *_PASSWORD.findall(text)) if len(hidden) > 2)


def _texts(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield the texts in a value, each with its path from there."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _choices(error: ErrorDetails) -> list[str]:
    """Return the names that an error of a choice allows; [] for other errors."""
    if error["type"] in ("literal_error", "enum"):
        expected = str(error["ctx"]["expected"])
        return _QUOTED.findall(expected) or [expected]
    return _QUOTED.findall(error["ctx"]["expected_tags"]) if error["type"] == "union_tag_invalid" else []


def _with_unit(bound: Any, unit: str | None) -> str:
    for name, factor in _UNITS.get(unit, ()):
        if bound >= factor and bound % factor == 0:
            return f"{bound / factor:g}{name}"
    if unit is not None:
        return f"{bound:g}{_UNITS[unit][-1][0]}"
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def _description(text: str) -> str:
    first = text.partition(". ")[0].removesuffix(".")
    if not first:
        return ""
    return f" ({first[0].lower() if first[1:2].islower() else first[0]}{first[1:]})"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
