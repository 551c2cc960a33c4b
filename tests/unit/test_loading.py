"""load_handlers: modules of the user's become one registry, or a list of all that is wrong with them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbridge import ConfigError
from qbridge.loading import load_handlers

HANDLERS = """
from qbridge import HandlerRegistry

registry = HandlerRegistry()

@registry.task
async def {name}(value: int) -> None: ...
"""


@pytest.fixture(autouse=True)
def fresh_imports() -> Iterator[None]:
    """Modules of a test and the places where they were found are forgotten after it."""
    modules, path = set(sys.modules), sys.path[:]
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, name: str, text: str) -> Path:
    """Write a module of the user's."""
    file = folder / f"{name}.py"
    file.write_text(text)
    return file


def refusal(folder: Path, *names: str) -> tuple[str, ...]:
    """Return what is wrong with these names, line by line."""
    with pytest.raises(ConfigError) as refused:
        load_handlers(names, folder=folder)
    return refused.value.problems


def test_a_module_brings_all_its_registries(tmp_path: Path) -> None:
    """Every registry that stands in a module is taken, each once, though it has two names there."""
    write(
        tmp_path,
        "shop",
        HANDLERS.format(name="pay") + "others = HandlerRegistry()\nothers.task(name='ship')(pay)\nagain = others\n",
    )

    assert ["pay", "ship"] == list(load_handlers(["shop"], folder=tmp_path))


def test_a_registry_can_be_named(tmp_path: Path) -> None:
    """`module:name` takes just that one."""
    write(tmp_path, "shop", HANDLERS.format(name="pay") + "others = HandlerRegistry()\nothers.task(name='ship')(pay)\n")

    assert ["ship"] == list(load_handlers(["shop:others"], folder=tmp_path))


def test_modules_are_merged_in_their_order(tmp_path: Path) -> None:
    """Handlers of several modules, packages included, come together; naming one twice is no clash."""
    write(tmp_path, "shop", HANDLERS.format(name="pay"))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "__init__.py").touch()
    write(tmp_path / "store", "tasks", HANDLERS.format(name="count"))

    loaded = load_handlers(["store.tasks", "shop", "shop:registry"], folder=tmp_path)

    assert ["count", "pay"] == list(loaded)


def test_the_folder_stays_on_the_path(tmp_path: Path) -> None:
    """A handler that imports its neighbours when it runs finds them."""
    write(tmp_path, "shop", HANDLERS.format(name="pay"))

    load_handlers(["shop"], folder=tmp_path)
    load_handlers(["shop"], folder=tmp_path)

    assert 1 == sys.path.count(str(tmp_path.resolve()))


def test_a_missing_module_is_told_with_the_places(tmp_path: Path) -> None:
    """The text says where was looked; a missing part of a package is a missing module too."""
    write(tmp_path, "plain", "")

    assert (
        f"handlers: module 'shop' is not found (looked in {tmp_path} and sys.path)",
        f"handlers: module 'shop.tasks' is not found (looked in {tmp_path} and sys.path)",
        f"handlers: module 'plain.tasks' is not found (looked in {tmp_path} and sys.path)",
    ) == refusal(tmp_path, "shop", "shop.tasks", "plain.tasks")
    with pytest.raises(ConfigError, match=r"^handlers: module 'shop' is not found \(looked in sys.path\)$"):
        load_handlers(["shop"])


def test_a_module_without_registry_says_what_to_write(tmp_path: Path) -> None:
    """A forgotten registry comes with the lines that are missing."""
    write(tmp_path, "shop", "x = 1\n")

    assert (
        "handlers: module 'shop' holds no HandlerRegistry; write `registry = HandlerRegistry()` in it and "
        "`@registry.task` above each handler",
    ) == refusal(tmp_path, "shop")


def test_a_missing_name_brings_the_nearest_one(tmp_path: Path) -> None:
    """A slip in the registry's name, or the name of something else, is told with what is there."""
    write(tmp_path, "shop", HANDLERS.format(name="pay"))
    write(tmp_path, "plain", "")

    assert (
        "handlers: 'shop:registri' names no HandlerRegistry: there is none (known in shop: registry); did you mean "
        "'registry'?",
        "handlers: 'shop:pay' names no HandlerRegistry: it is a function (known in shop: registry)",
        "handlers: 'plain:registry' names no HandlerRegistry: there is none (known in plain: none)",
    ) == refusal(tmp_path, "shop:registri", "shop:pay", "plain:registry")


@pytest.mark.parametrize(
    ("text", "error", "line"),
    [
        ("\nimport no_such_module_anywhere\n", "ModuleNotFoundError: No module named 'no_such_module_anywhere'", 2),
        ("\n\nraise ValueError('no luck')\n", "ValueError: no luck", 3),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3", 2),
        ("from qbridge import no_such_name\n", "ImportError: cannot import name 'no_such_name' from 'qbridge' ({})", 1),
    ],
)
def test_an_import_that_fails_is_told_with_its_place(tmp_path: Path, text: str, error: str, line: int) -> None:
    """The user's own file and line stand in the text, not ours."""
    import qbridge

    file = write(tmp_path, "shop", text)

    assert (f"handlers: module 'shop' can't be imported: {error.format(qbridge.__file__)} ({file}:{line})",) == refusal(
        tmp_path, "shop"
    )


def test_an_error_below_the_module_is_told_where_it_came_up(tmp_path: Path) -> None:
    """What a neighbour of the module raises is told with the neighbour's place."""
    write(tmp_path, "shop", "import neighbour\n")
    neighbour = write(tmp_path, "neighbour", "def build():\n    return 1 / 0\n\nbuild()\n")

    assert (
        f"handlers: module 'shop' can't be imported: ZeroDivisionError: division by zero ({neighbour}:2)",
    ) == refusal(tmp_path, "shop")


def test_a_syntax_error_is_told_with_its_place(tmp_path: Path) -> None:
    """Python's own words have the file's name and line."""
    write(tmp_path, "shop", "x = 1\ndef pay(:\n")

    assert ("handlers: module 'shop' can't be imported: SyntaxError: invalid syntax (shop.py, line 2)",) == refusal(
        tmp_path, "shop"
    )


def test_two_handlers_of_one_name_are_told(tmp_path: Path) -> None:
    """A name that two modules use is told with both functions."""
    write(tmp_path, "shop", HANDLERS.format(name="pay"))
    write(tmp_path, "store", HANDLERS.format(name="pay"))

    assert ("handlers: task 'pay' is registered already, by shop.pay; give store.pay another name=…",) == refusal(
        tmp_path, "shop", "store"
    )


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Nobody has to start a service five times to learn of five mistakes."""
    write(tmp_path, "shop", HANDLERS.format(name="pay"))
    write(tmp_path, "store", HANDLERS.format(name="pay"))
    write(tmp_path, "broken", "1 / 0\n")
    write(tmp_path, "empty", "")

    problems = refusal(tmp_path, "missing", "shop", "broken", "empty", "store", "shop:none")

    assert ["missing", "broken", "empty", "pay", "shop:none"] == [problem.split("'")[1] for problem in problems]


@pytest.mark.parametrize("name", ["", ":registry", ".shop"])
def test_a_name_that_is_no_module_is_told(tmp_path: Path, name: str) -> None:
    """A slip in the YAML is a problem to tell, not an exception of the import machinery."""
    [problem] = refusal(tmp_path, name)

    assert problem.startswith("handlers: module ")
