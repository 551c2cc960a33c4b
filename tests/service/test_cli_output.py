"""How commands print: to people, to programs, and to nobody."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qbridge.cli.output import Column, one_line, print_table, printable, time_text
from qbridge.discovery import installed_backends
from qbridge.schema import config_schema
from qbridge.service import ExitCode
from tests.support.cli import PATIENCE, ServiceFolder, environment, service

__all__ = ["service"]

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def test_a_piped_table_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Into a pipe nothing is cut, wrapped, coloured or read as markup, however long it is."""
    long = "x" * 500

    print_table(
        [Column("name"), Column("count", is_number=True), Column("text")],
        [["[bold]a[/bold]", "5", long], ["b", "1000", "two\nlines\tand :smile:"]],
    )

    assert (
        f"name            count  text\n[bold]a[/bold]      5  {long}\nb                1000  two lines and :smile:\n"
    ) == capsys.readouterr().out


def test_a_table_on_a_terminal_fits_it(service: ServiceFolder) -> None:
    """On a terminal a table is drawn within its width, with whole words where it can, and ids folded, not cut."""
    service.bury("default", b"x", reason="x" * 60, errors=["[bold]no markup[/bold] " + "y" * 100])

    shown = service.run_on_terminal("dead", "list", "default").out

    assert "\x1b[1m" in shown
    plain = ESCAPE.sub("", shown)
    assert max(map(len, plain.splitlines())) <= 80
    cells = re.sub(r"[\s─]", "", plain)
    assert "[bold]" in cells
    assert "…" not in plain


def test_no_color_is_respected(service: ServiceFolder) -> None:
    """With NO_COLOR a terminal gets no escape sequence."""
    shown = service.run_on_terminal("queues", env={"NO_COLOR": "1"}).out

    assert "default" in shown
    assert "\x1b" not in shown


def test_a_reader_that_goes_away_is_no_news(service: ServiceFolder) -> None:
    """`qbridge schema | head -1` writes nothing on standard error; the exit code is that of a broken pipe."""
    command = f"{sys.executable} -m qbridge schema | head -1; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        cwd=service.path,
        env=environment({"PYTHONUNBUFFERED": "1"}),
        timeout=PATIENCE,
        check=False,
    )

    assert "" == done.stderr
    assert done.stdout in ("{\n0\n", "{\n141\n")


def test_a_closed_pipe_ends_with_141(service: ServiceFolder) -> None:
    """A command whose output can't go anywhere says so by its exit code alone."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "qbridge", "backends"],
            stdout=closed,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )

    assert (141, b"") == (done.returncode, done.stderr)


@pytest.mark.parametrize("command", ["backends", "--help"])
def test_a_full_disk_is_an_error(service: ServiceFolder, command: str) -> None:
    """Output that could not be written is told, and the exit code says so, for a script must not go on with half."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "qbridge", command],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )

    assert (ExitCode.FAILURE, b"error: No space left on device\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_fault(service: ServiceFolder, closed: str) -> None:
    """Started without a stream, as some supervisors do, a command does what it has to do."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m qbridge send cleanup {closed}"],
        capture_output=True,
        cwd=service.path,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )

    assert (0, b"") == (done.returncode, done.stderr)
    assert 1 == service.stats().ready


def test_text_that_the_locale_has_not_is_written_out(service: ServiceFolder) -> None:
    """Where the output can't show a character, it is written as an escape instead of ending the command."""
    [message_id] = service.bury("default", b'"\xf0\x9f\x98\x80"')

    ended = service.run("dead", "show", "default", message_id, env={"PYTHONIOENCODING": "ascii"})

    assert (ExitCode.OK, "") == (ended.code, ended.err)
    assert r'"\U0001f600"' in ended.out


def test_the_backends_are_listed(service: ServiceFolder) -> None:
    """Installed backends and well-known others are told with what they need."""
    rows = json.loads(service.invoke("backends", "--format", "json").out)
    table = service.invoke("backends").out

    assert all(["name", "installed", "needs"] == list(row) for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert {"name": "sqlite", "installed": True, "needs": []} == by_name["sqlite"]
    assert set(installed_backends()) <= set(by_name)
    assert ["backend", "installed", "needs", "what", "it", "is"] == table.splitlines()[0].split()
    assert len(rows) + 1 == len(table.splitlines())


def test_the_schema_is_printed_as_it_is(service: ServiceFolder) -> None:
    """schema prints the JSON Schema that editors read."""
    ended = service.invoke("schema")

    assert config_schema() == json.loads(ended.out)
    assert (ExitCode.OK, "") == (ended.code, ended.err)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 😀", "plain äöü 😀"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b1m", r"\x9b1m"),
        ("a\rb", r"a\rb"),
        ("\u202egnp", r"\u202egnp"),
        ("\x00\x7f", r"\x00\x7f"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    """Only line ends and tabs are left of what a terminal obeys, also of what turns the direction of text."""
    assert shown == printable(text)


def test_one_line_has_one_line() -> None:
    """Whatever breaks a line becomes a blank, the rest is written out."""
    assert r"a b c \x1b" == one_line("a\r\n b\tc\n\x1b")


def test_times_are_told_in_utc() -> None:
    """Times for people are ISO 8601 in UTC."""
    assert ("1970-01-01T00:01:40Z", "-") == (time_text(100.9), time_text(None))
