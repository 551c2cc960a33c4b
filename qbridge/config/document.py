"""Document: plain values from YAML, the environment and flags, each with the place where it was written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel

from qbridge.errors import ConfigError

__all__ = ["ABSENT", "MOST_PROBLEMS", "Document", "KeyPath", "Place", "Problem", "format_path"]

#: How to reach a value from the root: keys of mappings and indexes of lists.
KeyPath = tuple[str | int, ...]

#: What `Document.value_at` returns where nothing was written.
ABSENT: Any = type("Absent", (), {"__repr__": lambda _self: "ABSENT"})()

#: More lines help nobody, and an error text must not grow without bound.
MOST_PROBLEMS = 100

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_:\-]{1,128}")


class Place(NamedTuple):
    """Where a value was written, and how.

    Attributes:
        name: For people: `qbridge.yaml:12`, `environment variable QBRIDGE_…`; "" if a program built the value.
        rank: Sorts places: the file by line and column, then the environment, then flags.
        text: The text that a scalar was typed from; None if it was quoted or is no scalar.
        variables: The environment variables that the value holds.
        is_override: It comes from the environment or a flag, over what the file says.
    """

    name: str = ""
    rank: tuple[int, int, int] = (0, 0, 0)
    text: str | None = None
    variables: tuple[str, ...] = ()
    is_override: bool = False


class Problem(NamedTuple):
    """One line of a `ConfigError`.

    Attributes:
        place: Where to look.
        text: What is wrong there, which begins with the key.
    """

    place: Place
    text: str

    @property
    def line(self) -> str:
        """The place and the text, as people read them."""
        return f"{self.place.name}: {self.text}" if self.place.name else self.text


@dataclass(slots=True)
class Document:
    """A configuration before it is checked. Belongs to the one call that reads it.

    Attributes:
        file: The file's name, for people; "" if a program built the values.
        content: The values.
        places: Where each of them was written.
        problems: What was found wrong while reading.
        broken: What `problems` already tells of; the values there mean nothing.
    """

    file: str = ""
    content: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[KeyPath] = field(default_factory=set)

    def place_of(self, path: KeyPath) -> Place:
        """Return where a value was written, or the nearest thing around it."""
        for length in range(len(path), -1, -1):
            if (place := self.places.get(path[:length])) is not None:
                return place
        return Place(self.file)

    def value_at(self, path: KeyPath) -> Any:
        """Return the value at a path, `ABSENT` if there is none."""
        value: Any = self.content
        for key in path:
            if isinstance(value, Mapping):
                value = value.get(key, ABSENT)
            elif isinstance(value, BaseModel):
                value = getattr(value, str(key), ABSENT)
            elif isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return ABSENT
        return value

    def is_broken(self, path: KeyPath) -> bool:
        """Return whether a problem is known of the value at `path`, or of what it is in."""
        return any(path[:length] in self.broken for length in range(len(path) + 1))

    def take_as_text(self, path: KeyPath) -> bool:
        """Take back the typing of a scalar that came from a variable or a flag, where quoting is awkward.

        Returns:
            Whether the value at `path` has become the text it was typed from.
        """
        place = self.places.get(path)
        if place is None or place.text is None or not (place.variables or place.is_override):
            return False
        parent = self.value_at(path[:-1])
        if not isinstance(parent, (dict, list)):
            return False
        parent[path[-1]] = place.text  # type: ignore[index]  # a path was made from the keys and indexes it walks
        self.places[path] = place._replace(text=None)
        return True

    def error(self, further: Iterable[Problem] = ()) -> ConfigError:
        """Return the error that tells of every problem, in the order of their places, each once."""
        problems = sorted((*self.problems, *further), key=lambda problem: problem.place.rank)
        lines = list(dict.fromkeys(problem.line for problem in problems))
        if len(lines) > MOST_PROBLEMS:
            more = f"{len(lines) - MOST_PROBLEMS} more problems are not listed"
            lines[MOST_PROBLEMS:] = [f"{self.file}: {more}" if self.file else more]
        return ConfigError(*lines)


def format_path(path: KeyPath) -> str:
    """Return a path as people write it: `queues.orders.url`, `handlers[2]`, `queues["a b"].key`."""
    parts: list[str] = []
    for key in path:
        if isinstance(key, int):
            parts.append(f"[{key}]")
        elif _PLAIN_KEY.fullmatch(key):
            parts.append(f".{key}" if parts else key)
        else:
            shown = key if len(key) <= 60 else f"{key[:57]}..."
            parts.append(f"[{json.dumps(shown)}]")
    return "".join(parts)
