"""`qbridge init`: what it writes runs as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qbridge import load_config
from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service

__all__ = ["service"]


def test_what_init_writes_runs_as_it_is(service: ServiceFolder) -> None:
    """The commands that init prints are run word for word, by a shell's rules, and greet the world."""
    new = service.path / "new folder"

    made = service.run("init", str(new))
    lines = made.out.splitlines()
    checked = service.run("check", cwd=new)
    sent = service.run("send", "hello", '{"name": "world"}', cwd=new)
    counted = service.run("send", "count_words", '["to be or not to be"]', cwd=new)
    ran = service.run("run", "--burst", cwd=new)

    assert [
        f"wrote {new / 'qbridge.yaml'} and {new / 'tasks.py'}",
        "next:",
        f"  cd '{new}'",
        "  qbridge check",
        """  qbridge send hello '{"name": "world"}'""",
        "  qbridge run --burst",
    ] == lines
    assert [ExitCode.OK] * 5 == [ended.code for ended in (made, checked, sent, counted, ran)]
    assert ["", ""] == [made.err, checked.err]
    assert "hello, world" in ran.out.splitlines()
    assert f"6 words (attempt 1 of task {counted.out.strip()})" in ran.out.splitlines()
    assert (new / "qbridge.db").exists(), "the queue's file is in the working directory"


def test_init_needs_no_folder(service: ServiceFolder) -> None:
    """Without a folder it writes here, and tells nobody to go anywhere."""
    for file in service.path.iterdir():
        file.unlink()

    ended = service.invoke("init")

    assert ["wrote qbridge.yaml and tasks.py", "next:", "  qbridge check"] == ended.out.splitlines()[:3]
    assert {"qbridge.yaml", "tasks.py"} == {path.name for path in service.path.iterdir()}


def test_nothing_is_overwritten(service: ServiceFolder) -> None:
    """Files that are there are all named, and none is written; --force overwrites them."""
    mine = service.write("tasks.py", "mine")
    theirs = (service.path / "qbridge.yaml").read_text()

    ended = service.invoke("init")
    kept = (mine.read_text(), (service.path / "qbridge.yaml").read_text())
    forced = service.invoke("init", "--force")

    assert [
        "error: qbridge.yaml is there already; --force overwrites it",
        "error: tasks.py is there already; --force overwrites it",
    ] == ended.errors
    assert (ExitCode.FAILURE, "") == (ended.code, ended.out)
    assert ("mine", theirs) == kept
    assert ExitCode.OK == forced.code
    assert "def hello" in mine.read_text()


def test_one_file_that_is_there_keeps_the_other_from_being_written(service: ServiceFolder) -> None:
    """Either both files are written or none."""
    ended = service.invoke("init")

    assert ["error: qbridge.yaml is there already; --force overwrites it"] == ended.errors
    assert not (service.path / "tasks.py").exists()


def test_a_folder_that_cannot_be_made_is_told(service: ServiceFolder) -> None:
    """A file where the folder should be is an error with its name, not a traceback."""
    service.write("taken", "")

    ended = service.invoke("init", "taken/deeper")

    assert ["error: taken/deeper: Not a directory"] == ended.errors
    assert ExitCode.FAILURE == ended.code


def test_the_starter_file_explains_every_section(service: ServiceFolder) -> None:
    """The YAML has a comment for each of its parts, and its values are the defaults where it doesn't say otherwise."""
    service.invoke("init", "new")
    text = Path("new/qbridge.yaml").read_text()

    config = load_config("new/qbridge.yaml")

    assert ["tasks"] == config.handlers
    assert all(
        re.search(rf"^ *# .*\n( *#.*\n)*{key}:", text, re.M) for key in ("handlers", "retry", "loops", "shutdown")
    )
    assert "Relative to the working directory" in text


@pytest.mark.parametrize("name", ["qbridge.yaml", "tasks.py"])
def test_the_starter_files_are_plain(service: ServiceFolder, name: str) -> None:
    """No line is over 120 characters, and nothing but ASCII is in them."""
    service.invoke("init", "new")

    text = Path("new", name).read_bytes().decode("ascii")

    assert max(map(len, text.splitlines())) <= 120
