"""Discovery: which backends are installed, by the entry points in the group `qbridge.backends`.

A package that can't be loaded is kept with the reason, so that one broken plug-in costs nobody else their queues. What
was found is kept too, until `sys.path` changes: a package that is installed under a running process is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

from qbridge.backend import Backend, BackendOptions
from qbridge.errors import BackendNotFoundError, nearest_name_hint

__all__ = [
    "CORE_QUEUE_KEYS",
    "BackendStatus",
    "backend_statuses",
    "broken_backends",
    "find_backend",
    "installed_backends",
    "missing_needs",
    "why_not_found",
]

#: Keys of a queue that are the core's own; no backend's option may have such a name.
CORE_QUEUE_KEYS = ("backend", "codec", "loops", "max_message_size", "read_ahead", "stalled_after")

_GROUP = "qbridge.backends"

#: What to install for a backend that many will look for, and whose package may be absent.
_WELL_KNOWN: Mapping[str, str] = MappingProxyType(
    {
        "rabbitmq": 'pip install "qbridge[rabbitmq]"',
        "redis": 'pip install "qbridge[redis]"',
    }
)

#: Names that people write for a broker whose backend has another name.
_OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {"amqp": "rabbitmq", "pika": "rabbitmq", "sqlite3": "sqlite", "valkey": "redis"}
)


class BackendStatus(NamedTuple):
    """One backend, as `qbridge backends` lists it.

    Attributes:
        name: What `backend:` says in the YAML.
        summary: One line about it; for one that can't be loaded, why.
        installed: It can be opened here: its package loads and its client library is importable.
        needs: What to install before it can be opened; () if nothing is missing or known.
    """

    name: str
    summary: str
    installed: bool
    needs: tuple[str, ...]


def installed_backends() -> Mapping[str, Backend[Any]]:
    """Return the backends that can be loaded, by name, in the order of their names.

    One whose client library is missing is among them, as its options can be checked all the same; see `missing_needs`.
    Each is loaded when it is first asked for, and all of them when they are listed: a worker has no use for the others.
    """
    return _found()


def broken_backends() -> Mapping[str, str]:
    """Return the names of installed backends that can't be loaded, each with the reason."""
    found = _found()
    return {name: reason for name in found.offered if (reason := found.why_broken(name))}


def find_backend(given: str | Backend[Any], backends: Mapping[str, Backend[Any]] | None = None) -> Backend[Any]:
    """Return the backend of a name.

    Args:
        given: A name; a backend object is returned as it is.
        backends: Where to look; None takes the installed ones.

    Raises:
        BackendNotFoundError: No installed package provides it, or its package can't be loaded. The text names the
            known ones, the nearest one, and what to install where that is known.
    """
    if isinstance(given, Backend):
        return given
    known = installed_backends() if backends is None else backends
    if given in known:
        return known[given]
    raise BackendNotFoundError(given, f"backend is {given!r}, {why_not_found(given, backends)}")


def why_not_found(name: str, backends: Mapping[str, Backend[Any]] | None = None) -> str:
    """Return why there is no backend of that name, as a clause that goes on after the name.

    Args:
        name: A name that is not among `backends`.
        backends: Where it was looked for; None means the installed ones.
    """
    if backends is None and (reason := _found().why_broken(name)):
        return f"which is installed but can't be loaded: {reason}"
    known = sorted(installed_backends() if backends is None else backends)
    meant = _OTHER_NAMES.get(name.lower(), name.lower())
    if meant in known:
        advice = f"; did you mean {meant!r}?"
    elif meant in _WELL_KNOWN:
        advice = f"; install it: {_WELL_KNOWN[meant]}"
    else:
        advice = nearest_name_hint(name, known)
    return f"which no installed package provides (known: {', '.join(known) or 'none'}){advice}"


def missing_needs(backend: Backend[Any]) -> Mapping[str, str]:
    """Return the modules that a backend needs and that are not installed, each with what to install.

    Nothing is imported, so a module that is installed and broken counts as there.
    """
    return {module: advice for module, advice in backend.needs.items() if not _is_importable(module)}


def backend_statuses() -> Sequence[BackendStatus]:
    """Return every backend that is installed, broken or well known, in the order of their names."""
    statuses = {
        name: BackendStatus(name=name, summary="not installed", installed=False, needs=(advice,))
        for name, advice in _WELL_KNOWN.items()
    }
    for name, reason in broken_backends().items():
        statuses[name] = BackendStatus(name=name, summary=f"can't be loaded: {reason}", installed=False, needs=())
    for name, backend in installed_backends().items():
        needs = tuple(dict.fromkeys(missing_needs(backend).values()))
        statuses[name] = BackendStatus(name=name, summary=backend.summary, installed=not needs, needs=needs)
    return [statuses[name] for name in sorted(statuses)]


class _Discovered(Mapping[str, Backend[Any]]):
    """The backends that can be loaded. None is loaded before it, or the whole list, is asked for."""

    def __init__(self) -> None:
        offers: dict[str, dict[str, EntryPoint]] = {}
        for entry_point in entry_points(group=_GROUP):
            offers.setdefault(entry_point.name, {})[entry_point.value] = entry_point
        self._offers = {name: tuple(by_value.values()) for name, by_value in sorted(offers.items())}
        self._loaded: dict[str, Backend[Any]] = {}
        self._broken: dict[str, str] = {}

    @property
    def offered(self) -> Sequence[str]:
        """The names of all that is installed, broken or not."""
        return tuple(self._offers)

    def why_broken(self, name: str) -> str:
        """Return why an installed backend can't be loaded; "" if it can, or isn't installed."""
        if name in self._offers and name not in self._loaded and name not in self._broken:
            self._try(name)
        return self._broken.get(name, "")

    def __getitem__(self, name: str) -> Backend[Any]:
        if name not in self._offers or self.why_broken(name):
            raise KeyError(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._offers if not self.why_broken(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _try(self, name: str) -> None:
        first, *others = self._offers[name]
        if others:
            values = ", ".join(sorted(entry_point.value for entry_point in self._offers[name]))
            self._broken[name] = f"several packages provide it ({values}): uninstall all but one"
            return
        try:
            self._loaded[name] = _load(first)
        # Somebody else's module: whatever stops its import must not stop the others.
        except (Exception, SystemExit) as exc:  # noqa: BLE001
            self._broken[name] = _one_line(exc)


def _found() -> _Discovered:
    return _discovered(tuple(map(str, sys.path)))


@lru_cache(maxsize=4)
def _discovered(path: tuple[str, ...]) -> _Discovered:
    """Return what is installed. `path` is `sys.path`: it is the key under which that is kept."""
    return _Discovered()


def _load(entry_point: EntryPoint) -> Backend[Any]:
    backend = entry_point.load()
    if not isinstance(backend, Backend):
        raise TypeError(f"{entry_point.value} is a {type(backend).__name__}, not a qbridge.Backend")
    if backend.name != entry_point.name:
        raise ValueError(f"{entry_point.value} is named {backend.name!r}, its entry point {entry_point.name!r}")
    if not issubclass(backend.options, BackendOptions):
        raise TypeError(f"options of {entry_point.value} are not a subclass of qbridge.BackendOptions")
    taken = sorted(set(backend.options.model_fields) & set(CORE_QUEUE_KEYS))
    if taken:
        raise ValueError(f"options of {entry_point.value} use names of the core's own keys: {', '.join(taken)}")
    return backend


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _is_importable(module: str) -> bool:
    # find_spec of a submodule would import its parents.
    root = module.partition(".")[0]
    if sys.modules.get(root) is not None:
        return True
    try:
        return find_spec(root) is not None
    except (ImportError, ValueError):
        return False
