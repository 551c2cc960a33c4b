"""The names of the package itself: all there, each from one place, none loaded before it is used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import qbridge

TREE = ast.parse(Path(qbridge.__file__).read_text("utf-8"))


def names_for_type_checkers() -> dict[str, str]:
    """Return the module of each name that is imported under TYPE_CHECKING."""
    [block] = [node for node in TREE.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def loaded_by(program: str) -> list[str]:
    """Return the modules of the package that are loaded when a program has run in an interpreter of its own."""
    told = "import json, sys; print(json.dumps(sorted(name for name in sys.modules if name.startswith('qbridge.'))))"
    done = subprocess.run([sys.executable, "-c", f"{program}; {told}"], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", qbridge.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """A name is what the module has that type checkers are told of, and stays the same object."""
    module = import_module(names_for_type_checkers()[name])

    assert getattr(module, name) is getattr(qbridge, name)
    assert getattr(qbridge, name) is getattr(qbridge, name)


def test_type_checkers_know_the_public_names_and_no_others() -> None:
    """What type checkers find in the package is what a program finds there."""
    assert sorted(qbridge.__all__) == sorted(names_for_type_checkers())


def test_the_public_names_are_listed_before_they_are_used() -> None:
    """`dir` of the package has every name, though none of them is loaded."""
    program = "import qbridge; assert set(qbridge.__all__) <= set(dir(qbridge))"

    assert [] == loaded_by(program)


def test_a_name_loads_its_own_module_only() -> None:
    """Who imports an error doesn't load the worker."""
    assert ["qbridge.errors"] == loaded_by("from qbridge import Reject")


def test_a_program_that_configures_itself_loads_no_parser() -> None:
    """A bridge that is made of a program's own values loads nothing that reads YAML, and nothing of a service."""
    loaded = loaded_by("from qbridge import QBridge; QBridge(queues={'default': {'backend': 'memory'}})")

    assert "qbridge.config.loading" in loaded
    assert set() == {"qbridge.config.yaml_source", "qbridge.config.overrides", "qbridge.service"} & set(loaded)


def test_events_are_loaded_with_the_first_listener() -> None:
    """What listeners are told is loaded when they subscribe: later no file may be there to be opened."""
    assert "qbridge.events" not in loaded_by("from qbridge import EventHub; EventHub()")
    assert "qbridge.events" in loaded_by("from qbridge import EventHub; EventHub().subscribe(print)")


def test_all_names_can_be_imported_at_once() -> None:
    """A star gives every public name."""
    assert "qbridge.service" in loaded_by("from qbridge import *; Service, QBridge, Retry")


def test_another_name_is_an_error() -> None:
    """A name that isn't there is told of, as for any module."""
    with pytest.raises(AttributeError, match="module 'qbridge' has no attribute 'QBrigde'"):
        qbridge.QBrigde  # type: ignore[attr-defined]  # noqa: B018  # that is the mistake
