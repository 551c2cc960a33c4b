"""What commands print: tables for people, JSON for programs, and never a control character of somebody else's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

__all__ = ["Column", "one_line", "print_json", "print_line", "print_table", "printable", "time_text"]


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its heading.
        is_number: It is aligned to the right.
    """

    title: str
    is_number: bool = False


def print_line(text: str) -> None:
    """Print a line on standard output."""
    sys.stdout.write(f"{text}\n")


def print_json(value: Any) -> None:
    """Print a JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on standard output: drawn to fit a terminal, or as plain aligned lines into a file or a pipe.

    Into a pipe no cell is cut or wrapped, so `grep` and `awk` see whole ids.
    """
    cells = [[one_line(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, cells)
        return
    lines = [[column.title for column in columns], *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = (
            cell.rjust(width) if column.is_number else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        )
        print_line("  ".join(padded).rstrip())


def printable(text: str) -> str:
    """Return a text whose control characters, but line ends and tabs, are written out: a terminal obeys none."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )


def one_line(text: str) -> str:
    """Return a text on one line, its control characters written out."""
    return printable(" ".join(text.split()) if "\n" in text or "\r" in text or "\t" in text else text)


def time_text(seconds: float | None) -> str:
    """Return a time for people: ISO 8601 in UTC, to the second; "-" for None."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _draw(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    is_plain = bool(os.environ.get("NO_COLOR"))  # rich would leave bold type
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="" if is_plain else "bold")
    for column in columns:
        table.add_column(Text(column.title), justify="right" if column.is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # a Text, as a plain string would be read as markup
    Console(highlight=False).print(table)
