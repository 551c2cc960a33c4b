"""Which command lines are run without the parser: those whose meaning needs none."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from qbridge.cli import _file_of_plain_run
from qbridge.cli.app import app

RUN = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]  # a group

#: Each variable that stands for a flag of `qbridge run`.
VARIABLES = sorted({str(option.envvar) for option in RUN.params if getattr(option, "envvar", None)})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, with two files to run."""
    monkeypatch.chdir(tmp_path)
    for name in ("qbridge.yaml", "shop.yaml", "-shop.yaml"):
        (tmp_path / name).touch()


@pytest.mark.parametrize(
    "words, file",
    [
        (["run"], "qbridge.yaml"),
        (["run", "-c", "shop.yaml"], "shop.yaml"),
        (["run", "--config", "./shop.yaml"], "shop.yaml"),
    ],
)
def test_a_run_of_a_file_needs_no_parser(words: list[str], file: str) -> None:
    """A file alone is run as it is; keys of the file may stand in variables."""
    environment = {"PATH": "/bin", "QBRIDGE_LOGGING__LEVEL": "debug", "_QBRIDGE_WORKER": "1:3"}

    assert Path(file) == _file_of_plain_run(words, environment)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["check"],
        ["run", "--burst"],
        ["run", "--help"],
        ["run", "-c"],
        ["run", "-c", "-shop.yaml"],
        ["run", "-c", "not-there.yaml"],
        ["run", "-c", "shop.yaml", "--set", "processes=2"],
        ["run", "--config=shop.yaml"],
        ["--debug", "run"],
    ],
)
def test_all_else_is_parsed(words: list[str]) -> None:
    """What has further flags, or may be wrong, is for the parser to tell."""
    assert _file_of_plain_run(words, {}) is None


@pytest.mark.parametrize("variable", [*VARIABLES, "_QBRIDGE_COMPLETE"])
def test_a_flag_in_a_variable_is_parsed(variable: str) -> None:
    """A variable that stands for a flag, or that a shell sets to complete a command, is for the parser."""
    assert _file_of_plain_run(["run"], {variable: "1"}) is None


def test_these_are_the_variables_of_a_run() -> None:
    """The flags of `qbridge run` are among what is tried here."""
    assert {"QBRIDGE_CONFIG", "QBRIDGE_SET", "QBRIDGE_BURST", "QBRIDGE_DEBUG"} <= set(VARIABLES)
