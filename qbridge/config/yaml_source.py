"""YAML text to plain values, each with the place where it was written.

Read from the parser's events rather than through a loader: so nothing can be constructed but mappings, lists and
scalars, every value keeps its line, and what makes YAML surprising (aliases, tags, duplicate keys, several documents)
is refused by name. Limits hold before the work is done: a hostile file costs a bounded time and memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import yaml

from qbridge.config.document import Document, KeyPath, Place, Problem, format_path
from qbridge.config.yaml_scalars import SURROGATE, substitute, typed_plain_scalar
from qbridge.errors import ConfigError

__all__ = ["MAX_DEPTH", "MAX_DOCUMENT_BYTES", "MAX_VALUES", "read_yaml"]

#: A larger configuration is a mistake or an attack.
MAX_DOCUMENT_BYTES = 2**20

#: Mappings and lists inside one another.
MAX_DEPTH = 20

#: Mappings, lists, keys and scalars in one document.
MAX_VALUES = 20_000

_EMPTY = "is empty: a configuration has at least the keys 'handlers' and 'queues'"

#: What the parser says of the mistakes that people make most, and what we say.
_SYNTAX_WORDS: Mapping[str, str] = {
    "found character '\\t' that cannot start any token": "a tab can't indent: write spaces",
    "found unexpected end of stream": "the quote that is opened here is never closed",
    "mapping values are not allowed here": (
        "a colon can't stand here: quote the text it belongs to, or check the indentation here and one line above"
    ),
    "sequence entries are not allowed here": "a dash can't stand here: start the list on a line of its own",
}

_BAD_START = re.compile(r"found character '(.)' that cannot start any token")


def read_yaml(text: str | bytes, *, file: str, env: Mapping[str, str]) -> Document:
    """Return what a YAML document says, with `${VAR}` replaced.

    Args:
        text: The document; bytes are UTF-8, with or without a byte order mark.
        file: Its name, for the places in error texts.
        env: Where `${VAR}` is looked up.

    Returns:
        The document. Problems that don't stop the reading are in its `problems`.

    Raises:
        ConfigError: It is too large, not UTF-8, not YAML or not one mapping: reading can't go on.
    """
    return _Reader(_decoded(text, file), file, env).read()


def _decoded(text: str | bytes, file: str) -> str:
    if len(text) > MAX_DOCUMENT_BYTES:
        raise ConfigError(f"{file}: is over {MAX_DOCUMENT_BYTES} bytes, which no configuration needs")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = text.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{file}:{line}: is not UTF-8 (byte 0x{text[exc.start]:02x})") from None


class _Reader:
    """Builds one document from the events of the YAML parser."""

    def __init__(self, text: str, file: str, env: Mapping[str, str]) -> None:
        self._text = text
        self._env = env
        self._document = Document(file)
        self._values = 0
        self._events = self._checked_events()

    def read(self) -> Document:
        next(self._events)  # the stream's start
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            self._stop_empty()
        node = next(self._events)
        root = self._value(node, (), node)
        next(self._events)  # the document's end
        rest = next(self._events)
        if not isinstance(rest, yaml.StreamEndEvent):
            self._stop(rest, "a second document starts here: a configuration is one document")
        if isinstance(root, dict):
            self._document.content = root
        elif not self._document.problems:
            if root is None:
                self._stop_empty()
            kind = "a list" if isinstance(root, list) else "a single value"
            self._stop(node, f"must be a mapping with keys like 'queues', not {kind}")
        else:
            raise self._document.error()
        return self._document

    def _checked_events(self) -> Iterator[yaml.Event]:
        """Yield the parser's events; its errors become ours."""
        try:
            yield from yaml.parse(self._text, Loader=yaml.SafeLoader)
        except yaml.reader.ReaderError as exc:
            before = self._text[: exc.position]
            line, column = before.count("\n") + 1, exc.position - (before.rfind("\n") + 1) + 1
            self._stop_at(line, column, f"character U+{ord(self._text[exc.position]):04X} is not allowed")
        except yaml.MarkedYAMLError as exc:
            self._stop_at_syntax(exc)

    def _next_node(self) -> yaml.Event:
        event = next(self._events)
        self._values += 1
        if self._values > MAX_VALUES:
            self._stop(event, f"has more than {MAX_VALUES} values, which no configuration needs")
        return event

    def _value(self, event: yaml.Event, path: KeyPath, mark: yaml.Event) -> Any:
        """Return the value that starts with `event`; `mark` is its key or item, where people look for it."""
        self._document.places[path] = self._place(mark)
        if len(path) > MAX_DEPTH:
            self._stop(event, f"is more than {MAX_DEPTH} levels deep, which no configuration needs")
        self._refuse_anchor_and_tag(event, path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(item := self._next_node(), yaml.SequenceEndEvent):
                items.append(self._value(item, (*path, len(items)), item))
            return items
        return self._scalar(event, path, mark) if isinstance(event, yaml.ScalarEvent) else None

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(key := self._next_node(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or SURROGATE.search(key.value):
                self._add(key, f"{format_path(path)}: a key must be a plain text".removeprefix(": "))
                self._skip(key)
                self._skip(self._next_node())
                continue
            name, key_path = key.value, (*path, key.value)
            if name in values:
                first = self._document.places[key_path].rank[1]
                self._add(key, f"{format_path(key_path)} is given twice (first on line {first})")
                self._skip(self._next_node())
                continue
            self._refuse_anchor_and_tag(key, key_path)
            values[name] = self._value(self._next_node(), key_path, key)
        return values

    def _scalar(self, event: yaml.ScalarEvent, path: KeyPath, mark: yaml.Event) -> Any:
        result = substitute(event.value, self._env)
        for problem in result.problems:
            self._note(mark, path, f"{format_path(path)}: {problem}")
        if SURROGATE.search(result.text):
            self._note(mark, path, f"{format_path(path)} is not valid Unicode text")
            return None
        is_plain = event.style is None and event.tag is None
        text = result.text if is_plain else None
        self._document.places[path] = self._place(mark, text, result.variables)
        return typed_plain_scalar(result.text) if is_plain else result.text

    def _refuse_anchor_and_tag(self, event: yaml.Event, path: KeyPath) -> None:
        key = format_path(path) or "the document"
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
            self._note(
                event, path, f"{key}: anchors and aliases ({sign}{event.anchor[:40]}) are not read: repeat the value"
            )
        elif getattr(event, "tag", None) is not None:
            self._note(event, path, f"{key}: tags (the word after !) are not read: remove it")

    def _skip(self, event: yaml.Event) -> None:
        """Read over the rest of the node that starts with `event`."""
        depth = 0
        while True:
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth == 0:
                return
            if depth > MAX_DEPTH:
                self._stop(event, f"is more than {MAX_DEPTH} levels deep, which no configuration needs")
            event = self._next_node()

    def _place(self, event: yaml.Event, text: str | None = None, variables: tuple[str, ...] = ()) -> Place:
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        return Place(f"{self._document.file}:{line}", (0, line, column), text, variables)

    def _add(self, event: yaml.Event, text: str) -> None:
        self._document.problems.append(Problem(self._place(event), text))

    def _note(self, event: yaml.Event, path: KeyPath, text: str) -> None:
        """Add a problem that leaves the value at `path` without a meaning."""
        self._add(event, text)
        self._document.broken.add(path)

    def _stop(self, event: yaml.Event, text: str) -> NoReturn:
        raise self._document.error([Problem(self._place(event), text)])

    def _stop_empty(self) -> NoReturn:
        raise self._document.error([Problem(Place(f"{self._document.file}:1", (0, 1, 1)), _EMPTY)])

    def _stop_at(self, line: int, column: int, text: str) -> NoReturn:
        place = Place(f"{self._document.file}:{line}:{column}", (0, line, column))
        raise self._document.error([Problem(place, f"not YAML: {text}")]) from None

    def _stop_at_syntax(self, exc: yaml.MarkedYAMLError) -> NoReturn:
        problem = exc.problem or "can't be parsed"
        text = _SYNTAX_WORDS.get(problem) or _BAD_START.sub(r"a text that begins with \1 needs quotes", problem)
        mark, start = exc.problem_mark, exc.context_mark
        kind = "list" if "sequence" in (exc.context or "") or "collection" in (exc.context or "") else "mapping"
        if problem == "found unexpected end of stream" and start is not None:
            mark = start
        elif problem.startswith("expected ',' or"):
            if mark is not None and self._text[: mark.index].endswith("$"):
                text = 'between braces or brackets a variable needs quotes: "${NAME}"'
            elif start is not None:
                text = f"{problem}, in the {kind} that starts on line {start.line + 1}"
        elif problem.startswith("expected <block end>") and start is not None:
            text = f"this line doesn't belong to the {kind} that starts on line {start.line + 1}: check the indentation"
        if mark is None:
            self._stop_at(1, 1, text)
        self._stop_at(mark.line + 1, mark.column + 1, text)
