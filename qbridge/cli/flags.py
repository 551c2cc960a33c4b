"""The flags that commands share. Each flag is an environment variable too: `--log-level` is QBRIDGE_LOG_LEVEL.

Variables with a double underscore, such as QBRIDGE_LOGGING__LEVEL, are none of these: they are keys of the YAML file.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from qbridge.units import parse_duration

__all__ = [
    "ConfigFile",
    "DebugFlag",
    "Format",
    "FormatFlag",
    "QueueName",
    "Settings",
    "duration_given",
    "examples",
    "flag",
    "overrides_given",
    "wants_debug",
]

_DEBUG = "qbridge.debug"


class Format(StrEnum):
    """How a command prints what it lists."""

    TABLE = "table"
    JSON = "json"


def flag(*names: str, help: str, **settings: Any) -> Any:
    """Return an option that is an environment variable too, named after its long name."""
    [long] = [name for name in names if name.startswith("--")]
    variable = "QBRIDGE_" + long.removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, help=help, envvar=variable, show_envvar=True, **settings)


def examples(*lines: str) -> str:
    """Return the end of a help text: commands that can be typed as they stand."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def wants_debug(context: typer.Context) -> bool:
    """Return whether `--debug` was given, to the command or before it."""
    return bool(context.meta.get(_DEBUG))


def duration_given(text: str, name: str) -> float:
    """Return the seconds that a flag says.

    Raises:
        typer.BadParameter: It is no duration.
    """
    try:
        # A number on the command line is a text, and means seconds, as in the YAML.
        return parse_duration(float(text) if text.strip().replace(".", "", 1).isdecimal() else text)
    except ValueError as exc:
        told = f"{text!r} is {exc}" if str(exc).startswith("not ") else f"{text!r}: {exc}"
        raise typer.BadParameter(told, param_hint=f"'{name}'") from None


def overrides_given(settings: list[str]) -> dict[str, str]:
    """Return what `--set` lays over the YAML file: values by dotted key.

    Raises:
        typer.BadParameter: One has no equals sign.
    """
    overrides: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{setting!r} is not KEY=VALUE, such as shutdown.grace=10s", param_hint="'--set'")
        overrides[key] = value
    return overrides


def _remember_debug(context: typer.Context, given: bool) -> None:
    if given:
        context.meta[_DEBUG] = True


ConfigFile = Annotated[Path, flag("--config", "-c", metavar="FILE", help="The YAML file of the service.")]

Settings = Annotated[
    list[str],
    flag(
        "--set",
        metavar="KEY=VALUE",
        help="Lay a value over the YAML file, such as loops.default.concurrency=50; may be repeated. "
        "In the variable, blanks separate them.",
        default_factory=list,
        show_default=False,
    ),
]

FormatFlag = Annotated[Format, flag("--format", help="A table for people, or JSON for programs.")]

DebugFlag = Annotated[
    bool,
    flag(
        "--debug",
        help="Show the traceback of an unexpected error.",
        callback=_remember_debug,
        is_eager=True,
    ),
]

QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="A queue of the YAML file.", show_default=False)]
