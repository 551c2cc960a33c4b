"""What all commands have in common: flags that are variables, help with examples, the version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer

import qbridge
from qbridge.cli.app import app
from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service

__all__ = ["service"]

#: Flags that do something instead of the command, so no environment should set them.
INSTEAD = {"help", "version", "install_completion", "show_completion"}


def commands(command: Any, path: str = "qbridge") -> Iterator[tuple[str, Any]]:
    """Yield each command with the words that call it."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_these_are_the_commands() -> None:
    """The commands are those that the documentation names."""
    assert {
        "qbridge",
        "qbridge run",
        "qbridge check",
        "qbridge send",
        "qbridge queues",
        "qbridge move",
        "qbridge backends",
        "qbridge schema",
        "qbridge init",
        "qbridge dead",
        "qbridge dead list",
        "qbridge dead show",
        "qbridge dead retry",
        "qbridge dead purge",
    } == set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_flag_is_a_variable_too(path: str) -> None:
    """`--log-level` is QBRIDGE_LOG_LEVEL, and so is each flag; none has two underscores, which are the file's keys."""
    flags = [
        option for option in COMMANDS[path].params if option.param_type_name == "option" and option.name not in INSTEAD
    ]

    expected = {
        option.name: "QBRIDGE_" + max(option.opts, key=len).removeprefix("--").replace("-", "_").upper()
        for option in flags
    }

    assert expected == {option.name: option.envvar for option in flags}
    assert not any("__" in variable for variable in expected.values())


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_explains_itself_with_examples(service: ServiceFolder, path: str) -> None:
    """`--help` and `-h` say what a command does and show commands that can be typed."""
    words = path.split(" ")[1:]

    ended = service.invoke(*words, "--help")
    short = service.invoke(*words, "-h")

    assert (ExitCode.OK, "") == (ended.code, ended.err)
    assert f"Usage: {path} " in ended.out
    assert f"Examples:\n    {path}" in ended.out or path in ("qbridge", "qbridge dead")
    assert "Examples:\n    qbridge" in ended.out
    assert ended == short


@pytest.mark.parametrize("group", [[], ["dead"]], ids=["qbridge", "qbridge dead"])
def test_no_command_shows_what_there_is_and_ends_with_2(service: ServiceFolder, group: list[str]) -> None:
    """A script that forgets the command gets an error code, a person the list of commands."""
    ended = service.invoke(*group)

    assert (ExitCode.USAGE, "") == (ended.code, ended.out)
    assert "Commands:\n" in ended.err


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_printed(service: ServiceFolder, flag: str) -> None:
    """Alone it is printed without loading the parser; beside another flag by the parser."""
    alone = service.run(flag)
    beside = service.invoke("--debug", flag)

    assert (0, f"qbridge {qbridge.__version__}\n", "") == (alone.code, alone.out, alone.err)
    assert (0, alone.out, "") == (beside.code, beside.out, beside.err)


def test_the_config_flag_beats_its_variable(service: ServiceFolder) -> None:
    """The file is taken from --config, else from QBRIDGE_CONFIG, else it is qbridge.yaml."""
    for name in ("first", "second"):
        service.write(f"{name}.yaml", f"{{handlers: [shop_tasks], queues: {{{name}: {{backend: memory}}}}}}")

    def queue_of(*arguments: str, variable: str | None = None) -> str:
        ended = service.invoke("check", "--format", "json", *arguments, env={"QBRIDGE_CONFIG": variable})
        [queue] = json.loads(ended.out)["queues"]
        return str(queue["queue"])

    assert "default" == queue_of()
    assert "default" == queue_of(variable="")
    assert "first" == queue_of(variable="first.yaml")
    assert "second" == queue_of("-c", "second.yaml", variable="first.yaml")


def test_values_are_laid_over_the_file_in_order(service: ServiceFolder) -> None:
    """Flags beat keys in the environment, and the last --set of a key wins."""
    env = {"QBRIDGE_RETRY__MAX_ATTEMPTS": "2", "QBRIDGE_RETRY__BASE": "3s"}

    ended = service.invoke(
        "check", "--format", "json", "--set", "retry.max_attempts=7", "--set", "retry.max_attempts=8", env=env
    )

    retry = json.loads(ended.out)["handlers"][0]["retry"]
    assert (8, 3.0) == (retry["max_attempts"], retry["base"])


def test_the_variable_of_set_takes_several(service: ServiceFolder) -> None:
    """QBRIDGE_SET holds settings with blanks between them."""
    ended = service.invoke(
        "check", "--format", "json", env={"QBRIDGE_SET": "retry.max_attempts=7 retry.backoff=constant"}
    )

    retry = json.loads(ended.out)["handlers"][0]["retry"]
    assert (7, "constant") == (retry["max_attempts"], retry["backoff"])


def test_a_flag_in_the_environment_is_checked_as_well(service: ServiceFolder) -> None:
    """A variable with a wrong value is told by its name."""
    ended = service.invoke("queues", env={"QBRIDGE_FORMAT": "xml"})

    assert ExitCode.USAGE == ended.code
    assert "QBRIDGE_FORMAT" in ended.err
