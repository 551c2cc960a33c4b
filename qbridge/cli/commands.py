"""The commands by name, each loaded when it is asked for: who runs one doesn't wait for the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.main import get_command

from qbridge.cli.flags import examples

__all__ = ["Commands"]

#: In the order in which `qbridge --help` shows them.
_NAMES = ("run", "check", "send", "queues", "move", "backends", "schema", "init", "dead")


class Commands(Mapping[str, Any]):
    """The commands of `qbridge`, as the parser takes them.

    Each is a module of this package with its name. It has a function of that name and `EXAMPLES`, or an `app` where it
    has commands of its own.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in _NAMES:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = get_command(_application(name))
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)


def _application(name: str) -> typer.Typer:
    module = import_module(f"qbridge.cli.{name}")
    found: typer.Typer | None = getattr(module, "app", None)
    if found is not None:
        return found
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, epilog=examples(*module.EXAMPLES))(getattr(module, name))
    return single
