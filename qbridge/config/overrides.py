"""Settings laid over the file: `QBRIDGE_<SECTION>__<KEY>` environment variables, then flags.

Names with single underscores only, such as QBRIDGE_CONFIG, belong to the flags of commands and are none of this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from qbridge.config.document import Document, KeyPath, Place, Problem, format_path
from qbridge.config.yaml_scalars import SURROGATE, typed_plain_scalar
from qbridge.errors import nearest_name_hint

__all__ = ["apply_environment", "apply_overrides"]

_PREFIX = "QBRIDGE_"
_SEPARATOR = "__"

#: Sections whose keys are names that people choose. They must be there: an override changes settings, it adds no queue.
_NAMED_SECTIONS = ("queues", "loops")


def apply_environment(document: Document, env: Mapping[str, str]) -> None:
    """Lay the variables `QBRIDGE_<SECTION>__<KEY>` over a document; what can't be laid becomes its problem.

    Case is not regarded, and in the names of queues and loop groups each character but letters and digits is written
    as an underscore: QBRIDGE_QUEUES__SHOP_ORDERS__URL is `queues.shop-orders.url`.
    """
    variables = sorted(name for name in env if name.startswith(_PREFIX) and _SEPARATOR in name[len(_PREFIX) :])
    for index, variable in enumerate(variables):
        place = Place(f"environment variable {variable}", (1, index, 0), is_override=True)
        section, _, rest = variable[len(_PREFIX) :].lower().partition(_SEPARATOR)
        keys: KeyPath | None = (section, *rest.split(_SEPARATOR))
        if section in _NAMED_SECTIONS:
            keys = _named_path(document, place, section, rest, _SEPARATOR)
        if keys is not None:
            _put(document, keys, env[variable], place)


def apply_overrides(document: Document, overrides: Mapping[str, object]) -> None:
    """Lay values over a document by dotted key, such as `logging.level`; what can't be laid becomes its problem."""
    for index, (dotted, value) in enumerate(overrides.items()):
        place = Place(f"override {dotted}", (2, index, 0), is_override=True)
        section, dot, rest = dotted.partition(".")
        keys: KeyPath | None = tuple(dotted.split("."))
        if section in _NAMED_SECTIONS and dot:
            keys = _named_path(document, place, section, rest, ".")
        if keys is not None:
            _put(document, keys, value, place)


def _named_path(document: Document, place: Place, section: str, rest: str, separator: str) -> KeyPath | None:
    """Return the keys that `rest` means below a section of names, which may hold the separator themselves."""
    entries = document.content.get(section, {"default": {}} if section == "loops" else {})
    if not isinstance(entries, dict):
        return None  # the file's own problem is told
    spelled = str if separator == "." else _as_variable
    matching = [name for name in entries if f"{rest}{separator}".startswith(f"{spelled(name)}{separator}")]
    longest = max((len(name) for name in matching), default=0)
    matching = [name for name in matching if len(name) == longest]
    if len(matching) == 1:
        below = rest[longest:].removeprefix(separator)
        return (section, matching[0], *(below.split(separator) if below else ()))
    given = rest.partition(separator)[0]
    if matching:
        text = f"{format_path((section, given))} could be {' or '.join(matching)}: rename one of them"
    else:
        known = ", ".join(list(entries)[:50]) or "none"
        hint = nearest_name_hint(given, list(entries)[:50])
        text = f"{format_path((section, given))} is not in the configuration (known: {known}){hint}"
    document.problems.append(Problem(place, text))
    return None


def _put(document: Document, path: KeyPath, value: object, place: Place) -> None:
    parent = document.content
    for length in range(1, len(path)):
        key, here = str(path[length - 1]), path[:length]
        if parent.get(key) is None:
            parent[key] = {}
            document.places[here] = place
        parent = parent[key]
        if not isinstance(parent, dict):
            document.problems.append(Problem(place, f"{format_path(here)} has no keys of its own"))
            return
    key = str(path[-1])
    if isinstance(parent.get(key), dict):
        document.problems.append(Problem(place, f"{format_path(path)} is a mapping: name one of its keys"))
        return
    if isinstance(value, str):
        if SURROGATE.search(value):
            document.problems.append(Problem(place, f"{format_path(path)} is not valid Unicode text"))
            return
        place = Place(place.name, place.rank, value, is_override=True)
        value = typed_plain_scalar(value)
    parent[key] = value
    document.places[path] = place


def _as_variable(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())
