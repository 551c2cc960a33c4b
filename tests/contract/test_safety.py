"""What nothing in the library may do, since messages and configurations may be written by an enemy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for folder in ("qbridge", "backends") for path in (ROOT / folder).rglob("*.py"))

#: They make objects, and so run code, out of bytes.
UNSAFE_MODULES = frozenset(
    {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "copyreg"}
    | {"code", "codeop", "runpy", "imp", "pkgutil", "pydoc"}
)

#: They run text, or find a thing by a name that may come from anywhere.
UNSAFE_CALLS = frozenset(
    {"eval", "exec", "compile", "__import__", "import_module", "import_string", "ImportString", "globals"}
    | {"exec_module", "load_module", "spec_from_file_location", "run_path", "run_module", "resolve_name"}
    | {"system", "popen", "attrgetter", "methodcaller"}
)

#: PyYAML's loaders that make objects of any class; the library reads events and makes nothing.
UNSAFE_YAML = frozenset(
    {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all", "Loader", "FullLoader"}
    | {"UnsafeLoader", "CLoader", "CFullLoader", "CUnsafeLoader"}
)

#: Where it is right: the operator's own list of modules, and names that stand in a table beside the call.
ALLOWED = frozenset(
    {("qbridge/loading.py", "import_module")}
    | {("qbridge/__init__.py", "import_module"), ("qbridge/__init__.py", "globals")}
    | {("qbridge/cli/commands.py", "import_module")}
)


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Yield the names of what must not be imported or called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.partition(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").partition(".")[0] in UNSAFE_MODULES:
                yield node.module or ""
            names = {name.name for name in node.names}
            yield from sorted(names & (UNSAFE_CALLS | (UNSAFE_YAML if node.module == "yaml" else frozenset())))
        elif isinstance(node, ast.Attribute):
            is_yaml = isinstance(node.value, ast.Name) and node.value.id == "yaml"
            is_regex = isinstance(node.value, ast.Name) and node.value.id == "re"
            if (node.attr in UNSAFE_CALLS and not is_regex) or (is_yaml and node.attr in UNSAFE_YAML):
                yield node.attr
        elif isinstance(node, ast.Name) and node.id in UNSAFE_CALLS:
            yield node.id
        elif isinstance(node, ast.keyword) and node.arg == "shell":
            yield "shell="


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_becomes_code(path: Path) -> None:
    """No module unpickles, evaluates, starts a shell, or imports by a name that came from elsewhere."""
    found = {(str(path.relative_to(ROOT)), name) for name in unsafe(ast.parse(path.read_text("utf-8")))}

    assert found <= ALLOWED


def test_the_exceptions_are_in_use() -> None:
    """What is allowed is there: a list of exceptions doesn't outlive them."""
    found = {
        (str(path.relative_to(ROOT)), name) for path in MODULES for name in unsafe(ast.parse(path.read_text("utf-8")))
    }

    assert ALLOWED == found


def test_only_what_shows_messages_reads_them_unverified() -> None:
    """A codec that verifies signatures is made by the configuration; without one only lists of messages are drawn."""
    unverified = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and (ast.unparse(node.func).endswith(".codec.create_codec") or ast.unparse(node.func) == "JsonCodec")
    }

    made_by = {"qbridge/config/models.py", "qbridge/config/queue_models.py"}
    assert {"qbridge/cli/dead.py", "qbridge/cli/queues.py"} == unverified - made_by


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "def f():\n    import marshal",
        "from shelve import open",
        "import dill.source",
        "eval(text)",
        "run = exec",
        "import builtins\nbuiltins.eval(text)",
        "importlib.import_module(name)",
        "from importlib import import_module",
        "__import__(name)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "yaml.load(text, Loader=loader)",
        "yaml.parse(text, Loader=yaml.UnsafeLoader)",
        "from yaml import unsafe_load",
        "from pydantic import ImportString",
        "globals()[name]()",
    ],
)
def test_a_breach_of_safety_is_found(source: str) -> None:
    """Each way of breaking the rule is noticed."""
    assert list(unsafe(ast.parse(source)))


@pytest.mark.parametrize(
    "source", ["re.compile(text)", "yaml.parse(text, Loader=yaml.SafeLoader)", "yaml.safe_dump(x)"]
)
def test_what_is_safe_is_no_breach(source: str) -> None:
    """Words that only look alike are let alone."""
    assert [] == list(unsafe(ast.parse(source)))
