"""Handlers by module name: what `handlers:` in the YAML names becomes one registry."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from qbridge.errors import ConfigError, RegistryError, nearest_name_hint
from qbridge.registry import HandlerRegistry

__all__ = ["load_handlers"]


def load_handlers(names: Sequence[str], *, folder: Path | None = None) -> HandlerRegistry:
    """Import modules and return all their handlers in one registry.

    Args:
        names: `module`, for every `HandlerRegistry` that stands in it, or `module:name`, for just that one.
        folder: Where modules are looked for first, beside what `sys.path` has.

    Raises:
        ConfigError: A module can't be imported, holds no registry, or two handlers have one name; all that is wrong
            is told at once.
    """
    registry = HandlerRegistry()
    problems: list[str] = []
    with _importable_from(folder):
        for name in names:
            try:
                for found in _registries(name, folder):
                    registry.include(found)
            except ConfigError as exc:
                problems.extend(exc.problems)
            except RegistryError as exc:
                problems.append(f"handlers: {exc}")
    if problems:
        raise ConfigError(*problems)
    return registry


def _registries(name: str, folder: Path | None) -> Iterator[HandlerRegistry]:
    module_name, _, attribute = name.partition(":")
    module = _import(module_name, folder)
    if attribute:
        found = getattr(module, attribute, None)
        if not isinstance(found, HandlerRegistry):
            known = [key for key, value in vars(module).items() if isinstance(value, HandlerRegistry)]
            what = "there is none" if found is None else f"it is a {type(found).__name__}"
            raise ConfigError(
                f"handlers: {name!r} names no HandlerRegistry: {what} "
                f"(known in {module_name}: {', '.join(known) or 'none'}){nearest_name_hint(attribute, known)}"
            )
        yield found
        return
    distinct = {id(value): value for value in vars(module).values() if isinstance(value, HandlerRegistry)}
    if not distinct:
        raise ConfigError(
            f"handlers: module {name!r} holds no HandlerRegistry; "
            "write `registry = HandlerRegistry()` in it and `@registry.task` above each handler"
        )
    yield from distinct.values()


def _import(name: str, folder: Path | None) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            places = f"{folder} and sys.path" if folder is not None else "sys.path"
            raise ConfigError(f"handlers: module {name!r} is not found (looked in {places})") from exc
        raise ConfigError(f"handlers: module {name!r} can't be imported: {_told(exc)}") from exc
    # A script without a guard ends the process when it is imported: the service must say so, not end with its code.
    except (Exception, SystemExit) as exc:
        raise ConfigError(f"handlers: module {name!r} can't be imported: {_told(exc)}") from exc


def _told(exc: BaseException) -> str:
    """Return an error with the place in the user's file where it came up."""
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if "importlib" not in frame.filename]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(exc).__name__}: {exc}{place}"


@contextmanager
def _importable_from(folder: Path | None) -> Iterator[None]:
    """Look for modules in `folder` first. It stays on the path: handlers may import more when they run."""
    if folder is not None and (entry := str(folder.resolve())) not in sys.path:
        sys.path.insert(0, entry)
    yield
