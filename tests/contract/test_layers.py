"""The rules about imports and exits that import-linter can't state; its own contracts are in pyproject.toml."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
CORE = ROOT / "qbridge"
BACKENDS = sorted(path for path in (ROOT / "backends").iterdir() if (path / "__init__.py").exists())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

Finder = Callable[[ast.AST], Iterator[str]]


def test_the_core_does_not_import_from_its_own_package_root() -> None:
    """A module of the core takes each name from the module that defines it; the root only re-exports.

    Only the shipped test kit, which stands outside as any author's code does, goes through the front door; and the
    command line reads the version there.
    """
    inside = [path for path in modules(CORE) if CORE / "testing" not in path.parents]

    found = list(faults(inside, from_the_root))

    assert [] == [fault for fault in found if not (fault.startswith("qbridge/cli/") and fault.endswith(".__version__"))]


def test_nothing_in_the_library_exits_but_the_command_line() -> None:
    """Only qbridge/cli ends the process in an orderly way; everybody else raises an exception."""
    elsewhere = [path for path in modules(CORE) + modules(*BACKENDS) if CORE / "cli" not in path.parents]

    assert [] == list(faults(elsewhere, exits))


def test_only_the_service_leaves_at_once() -> None:
    """`os._exit`, which skips every clean-up, is called for the third signal, in the service, and nowhere else."""
    elsewhere = [path for path in modules(CORE) + modules(*BACKENDS) if "service" not in path.relative_to(ROOT).parts]

    assert [] == list(faults([path for path in elsewhere if path.name != "service.py"], leaves_at_once))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda path: path.name)
def test_a_backend_imports_the_front_door_and_its_client_only(backend: Path) -> None:
    """A backend is what a stranger could write: `from qbridge import …`, pydantic, its own client, nothing else."""
    own = {backend.name, "pydantic", *clients(backend)}

    found = list(faults(modules(backend), lambda node: foreign(node, own)))

    assert [] == found


@pytest.mark.parametrize(
    ("finder", "source"),
    [
        ("from_the_root", "from qbridge import QBridge"),
        ("from_the_root", "import qbridge"),
        ("from_the_root", "from . import QBridge"),
        ("exits", "import sys\nsys.exit(1)"),
        ("exits", "from sys import exit"),
        ("exits", "raise SystemExit"),
        ("exits", "raise SystemExit(2)"),
        ("exits", "exit(1)"),
        ("exits", "import typer\nraise typer.Exit(1)"),
        ("leaves_at_once", "import os\nos._exit(1)"),
        ("leaves_at_once", "from os import _exit"),
        ("foreign", "import qbridge.source"),
        ("foreign", "from qbridge.source import Delivery"),
        ("foreign", "from qbridge import source"),
        ("foreign", "def open():\n    import redis"),
    ],
)
def test_a_breach_is_found(finder: str, source: str) -> None:
    """Each rule above notices each way of breaking it."""
    finders: dict[str, Finder] = {
        "from_the_root": from_the_root,
        "exits": exits,
        "leaves_at_once": leaves_at_once,
        "foreign": lambda node: foreign(node, {"qbridge_sqlite"}),
    }

    found = [fault for node in ast.walk(ast.parse(source)) for fault in finders[finder](node)]

    assert 1 == len(found)


def modules(*folders: Path) -> list[Path]:
    """All Python files under the folders."""
    return [path for folder in folders for path in sorted(folder.rglob("*.py"))]


def faults(paths: list[Path], finder: Finder) -> Iterator[str]:
    """Yield `file:line: fault` for all that the finder finds in the files."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"), filename=str(path))):
            for fault in finder(node):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {fault}"


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the full names that an import statement takes, with a leading dot for each level of a relative one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        origin = "." * node.level + (node.module or "")
        yield from (f"{origin}.{alias.name}" for alias in node.names)


def from_the_root(node: ast.AST) -> Iterator[str]:
    """Find imports of the package root, or of a name from it that is no module."""
    for name in imported(node):
        head, _, tail = name.rpartition(".")
        is_module = bool(tail) and ((CORE / f"{tail}.py").exists() or (CORE / tail).is_dir())
        if name == "qbridge" or (head == "qbridge" and isinstance(node, ast.ImportFrom) and not is_module):
            yield f"imports {name}"
        elif name.startswith("."):
            yield f"imports {name}: write the full name, so that its floor can be seen"


def exits(node: ast.AST) -> Iterator[str]:
    """Find the orderly ways to end a process."""
    for name in imported(node):
        if name in {"sys.exit", "builtins.exit", "typer.Exit", "click.exceptions.Exit"}:
            yield f"imports {name}"
    if isinstance(node, ast.Attribute) and ast.unparse(node) in {"sys.exit", "typer.Exit", "click.exceptions.Exit"}:
        yield ast.unparse(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"exit", "quit"}:
        yield f"{node.func.id}()"
    if isinstance(node, ast.Raise) and node.exc is not None and ast.unparse(node.exc).startswith("SystemExit"):
        yield "raise SystemExit"


def leaves_at_once(node: ast.AST) -> Iterator[str]:
    """Find the end of a process without any clean-up."""
    if "os._exit" in imported(node) or (isinstance(node, ast.Attribute) and ast.unparse(node) == "os._exit"):
        yield "os._exit"


def foreign(node: ast.AST, own: set[str]) -> Iterator[str]:
    """Find imports of what is neither the standard library, nor in `own`, nor a public name of the package root."""
    for name in imported(node):
        package, _, rest = name.partition(".")
        if package == "qbridge":
            is_public = isinstance(node, ast.ImportFrom) and "." not in rest
            is_module = (CORE / f"{rest}.py").exists() or (CORE / rest).is_dir()
            if name != "qbridge" and (not is_public or is_module):
                yield f"imports {name}: take it from the package root"
        elif package and package not in own | sys.stdlib_module_names:
            yield f"imports {name}: no client of this backend"


def clients(backend: Path) -> set[str]:
    """What the backend's extra in pyproject.toml installs, such as redis and hiredis for `redis[hiredis]`."""
    lines: list[str] = PROJECT["optional-dependencies"].get(backend.name.removeprefix("qbridge_"), [])
    return {name for each in map(Requirement, lines) for name in (each.name, *each.extras)}
