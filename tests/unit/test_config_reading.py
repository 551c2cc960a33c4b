"""What can't be read at all, and the limits that hold whatever a file says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from qbridge import ConfigError
from qbridge.config import load_config
from qbridge.config.document import MOST_PROBLEMS
from tests.support.config_backend import BACKENDS, error_of

START = "handlers: [shop.tasks]\nqueues:\n  orders: {backend: store, url: store://host}\n"

#: Seconds within which the worst document is refused here; without the limits some take minutes.
LONGEST = 20.0


def load_error(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(path, env={}, backends=BACKENDS)
    return str(raised.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """The error names the file that isn't there."""
    path = tmp_path / "qbridge.yaml"

    assert f"{path}: there is no such file" == load_error(path)


def test_a_directory_is_told(tmp_path: Path) -> None:
    """A directory is no file."""
    assert f"{tmp_path}: is a directory, not a file" == load_error(tmp_path)


def test_a_file_that_the_system_refuses_is_told(tmp_path: Path) -> None:
    """The error repeats what the system says."""
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "qbridge.yaml"

    assert f"{path}: can't be read: Not a directory" == load_error(path)


def test_a_path_that_no_system_takes_is_told() -> None:
    """A NUL in the path is an error of the configuration, not of the program."""
    assert "a\0b: can't be read: embedded null byte" == load_error(Path("a\0b"))


def test_an_endless_file_is_refused() -> None:
    """Only as much is read as a configuration may have."""
    assert "/dev/zero: is over 1048576 bytes, which no configuration needs" == load_error(Path("/dev/zero"))


def test_the_place_of_a_problem_is_the_path_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path stays relative, so that an editor's terminal can open it."""
    monkeypatch.chdir(tmp_path)
    Path("qbridge.yaml").write_text(START + "max_crashes: 1\n", encoding="utf-8")

    assert "qbridge.yaml:4: max_crashes must be at least 2, not 1" == load_error(Path("qbridge.yaml"))


def test_bytes_that_are_not_utf_8_are_told_with_their_line() -> None:
    """The first wrong byte is named."""
    actual = error_of(START.encode() + b"# caf\xe9\n")

    assert "qbridge.yaml:4: is not UTF-8 (byte 0xe9)" == actual


def test_utf_16_is_told() -> None:
    """What some editors write by themselves is refused like every other encoding."""
    actual = error_of(START.encode("utf-16"))

    assert "qbridge.yaml:1: is not UTF-8 (byte 0xff)" == actual


def test_at_most_a_hundred_problems_are_listed() -> None:
    """An error text doesn't grow without bound; what isn't listed is counted."""
    actual = error_of(START + "".join(f"key{number}: 1\n" for number in range(500)))

    lines = actual.splitlines()
    assert MOST_PROBLEMS + 1 == len(lines)
    assert lines[0].startswith("qbridge.yaml:4: key0 is not a known key")
    assert lines[99].startswith("qbridge.yaml:103: key99 is not a known key")
    assert "qbridge.yaml: 400 more problems are not listed" == lines[100]


HOSTILE = {
    "open brackets": "[" * 1_000_000,
    "open braces": "{a: " * 250_000,
    "nested dashes": "- " * 500_000,
    "nested keys": "? " * 500_000,
    "many items": "- a\n" * 250_000,
    "many keys": "".join(f"k{number}: 1\n" for number in range(80_000)),
    "many unknown keys": START + "".join(f"handler{number}: 1\n" for number in range(9_000)),
    "many wrong handlers": f"handlers: [{'a.b, ' * 19_000}]\nqueues: {{}}\n",
    "many unknown backends": "queues:\n" + "".join(f"  q{number}: {{backend: stor}}\n" for number in range(3_500)),
    "many unknown loop groups": "handlers: []\nqueues:\n"
    + "".join(f"  q{number}: {{backend: store, loops: loop{number}}}\n" for number in range(1_200))
    + "loops:\n"
    + "".join(f"  group{number}: {{}}\n" for number in range(3_400)),
    "many references": f"handlers: ['{'${A:-b}' * 120_000}']\n",
    "open references": f"handlers: ['{'${' * 500_000}']\n",
    "long key": f"? {'queues' * 100_000}\n: 2\n",
    "long number": f"processes: {'9' * 1_000_000}\n",
    "long text": f"processes: '{'a' * 1_000_000}'\n",
    "laughs": "a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_document_is_refused_in_bounded_time_and_words(text: str) -> None:
    """However a document is made, it costs seconds at most, and the error stays readable."""
    started = time.monotonic()

    actual = error_of(text, {"QBRIDGE_QUEUES__Q1__KEY": "x"})

    assert time.monotonic() - started < LONGEST
    assert len(actual) < 200_000
