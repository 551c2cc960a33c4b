"""Markdown pages as the tests of the documentation read them: fenced blocks, links, headings, and generated tables.

The fence's first word is the language; what follows is for the tests:

- `title="tasks.py"`: the block is a file of the page. Blocks of one title make up one file, in their order.
- `output`: what the Python block before it prints.
- `terminal="worker"`: the last command of the block goes on running; later blocks of that terminal show more of what it
  prints, and `^C` ends it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from qbridge import Backend, Capabilities

__all__ = ["Block", "Link", "anchors_of", "blocks_of", "links_of", "prose_of", "table_of_backends"]

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,})(?P<info>.*)")
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"(`+)(.+?)\1")

#: What a reader is told of each capability.
_PROMISES = (
    ("durable", "messages survive a restart of the broker and of every worker"),
    ("shared", "several worker processes on one queue"),
    ("ordered", "claimed first in, first out"),
    ("delay", "delayed sends and retries, kept by the broker"),
    ("attempts", "attempts and crashes counted by the broker"),
    ("lease", "an unsettled message comes back when"),
    ("headers", "headers beside the body"),
    ("dead_letters", "dead letters kept, listed, sent again"),
)

_LEASES = {"timeout": "its lease runs out", "connection": "its connection ends"}


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        line: The line of its opening fence, from 1.
        language: The first word of the fence; "" if there is none.
        title: The file it is part of, or "".
        terminal: The terminal it shows, or "".
        is_output: Whether it is what the block before it prints.
        text: What stands between the fences, less their indentation.
    """

    line: int
    language: str
    title: str
    terminal: str
    is_output: bool
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """One inline link.

    Attributes:
        line: Where it stands, from 1.
        target: What it leads to, as written.
    """

    line: int
    target: str


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page.

    Raises:
        ValueError: If a fence isn't closed, or a word behind it has no meaning.
    """
    blocks: list[Block] = []
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        opening = _FENCE.fullmatch(line)
        if opening is None:
            continue
        body: list[str] = []
        for _, inner in lines:
            if inner.strip() == opening["fence"]:
                break
            body.append(inner.removeprefix(opening["indent"]))
        else:
            raise ValueError(f"line {number}: the fence is never closed")
        blocks.append(_block(number, opening["info"], "".join(f"{inner}\n" for inner in body)))
    return blocks


def prose_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines outside fenced blocks, with their numbers from 1."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.fullmatch(line)
        if fence:
            if line.strip() == fence:
                fence = ""
        elif match is not None:
            fence = match["fence"]
        else:
            yield number, line


def links_of(text: str) -> list[Link]:
    """Return the inline links of a page; what looks like one in code is none."""
    return [
        Link(number, match["target"])
        for number, line in prose_of(text)
        for match in _LINK.finditer(_CODE.sub(lambda code: "_" * len(code[0]), line))
    ]


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them, and those written as `<a id="…">`."""
    anchors: set[str] = set()
    for _, line in prose_of(text):
        anchors.update(re.findall(r'<a id="([^"]+)">', line))
        heading = re.fullmatch(r"#{1,6} +(.+?) *", line)
        if heading is None:
            continue
        slug = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
        repeated = 0
        while (anchor := f"{slug}-{repeated}" if repeated else slug) in anchors:
            repeated += 1
        anchors.add(anchor)
    return anchors


def table_of_backends(backends: Iterable[Backend[Any]]) -> str:
    """Return the table of backends and of what each of them promises, one column for each backend."""
    known = list(backends)
    rows = [
        ["", *(f"`{backend.name}`" for backend in known)],
        ["---", *(":-:" for _ in known)],
        *([promise, *(_answer(backend.capabilities, ability) for backend in known)] for ability, promise in _PROMISES),
    ]
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in rows)


def _answer(capabilities: Capabilities, ability: str) -> str:
    value = getattr(capabilities, ability)
    return _LEASES[value] if ability == "lease" else "yes" if value else "no"


def _block(line: int, info: str, text: str) -> Block:
    language, *words = shlex.split(info) or [""]
    known = {"title": "", "terminal": ""}
    is_output = False
    for word in words:
        name, is_given, value = word.partition("=")
        if word == "output":
            is_output = True
        elif is_given and name in known:
            known[name] = value
        else:
            raise ValueError(f"line {line}: {word!r} behind a fence means nothing to the tests")
    return Block(line, language, known["title"], known["terminal"], is_output, text)
