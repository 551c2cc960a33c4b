"""Which backends are found, what is said of those that aren't, and that a broken one harms nobody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qbridge import BackendNotFoundError
from qbridge.discovery import (
    BackendStatus,
    backend_statuses,
    broken_backends,
    find_backend,
    installed_backends,
    missing_needs,
)
from tests.support.config_backend import BACKENDS

STORE = BACKENDS["store"]

Install = Callable[[dict[str, str], str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution with entry points and one module of Python, until the test ends."""
    before = set(sys.modules)
    count = 0

    def put(entry_points: dict[str, str], source: str = "") -> None:
        nonlocal count
        count += 1
        site = tmp_path / f"site{count}"
        information = site / f"plugin{count}-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugin{count}\nVersion: 1.0\n")
        lines = [f"{name} = {value}\n" for name, value in entry_points.items()]
        (information / "entry_points.txt").write_text("[qbridge.backends]\n" + "".join(lines))
        (site / f"plugin{count}.py").write_text(source)
        monkeypatch.syspath_prepend(site)

    yield put

    for name in set(sys.modules) - before:
        if name.startswith("plugin"):
            del sys.modules[name]


def plugin(name: str, options: str = "") -> str:
    """Return the source of a module with a backend of that name."""
    return f"""
from qbridge import Backend, BackendOptions
from tests.support.config_backend import BACKENDS

class Options(BackendOptions):
    {options or "pass"}

backend = Backend(
    name={name!r}, summary="from a plug-in", options=Options, capabilities=BACKENDS["store"].capabilities,
    create=BACKENDS["store"].create, example={{}},
    needs={{"surely_absent.sub": "pip install surely-absent", "json": "nothing"}},
)
"""


def test_our_own_backends_are_installed() -> None:
    """The entry points of this distribution name loadable backends, in the order of their names."""
    found = installed_backends()

    assert {"memory", "redis", "sqlite"} <= set(found)
    assert sorted(found) == list(found)
    assert [name for name, backend in found.items() if name != backend.name] == []


def test_a_backend_of_another_package_is_found(install: Install) -> None:
    """A stranger's entry point counts as much as ours, as soon as its package is on sys.path."""
    assert "strange" not in installed_backends()

    install({"strange": "plugin1:backend"}, plugin("strange"))

    assert "from a plug-in" == installed_backends()["strange"].summary
    assert installed_backends()["strange"] is find_backend("strange")


def test_what_was_found_is_kept(install: Install) -> None:
    """Asking again imports nothing and reads no metadata."""
    install({"strange": "plugin1:backend"}, plugin("strange"))

    assert installed_backends() is installed_backends()


BROKEN = {
    "an import that fails": (
        "raise RuntimeError('no\\n  licence')",
        "RuntimeError: no licence",
    ),
    "an import that exits": (
        "raise SystemExit(3)",
        "SystemExit: 3",
    ),
    "a module without the object": (
        "",
        "AttributeError: module 'plugin1' has no attribute 'backend'",
    ),
    "an object that is no backend": (
        "backend = 'strange'",
        "TypeError: plugin1:backend is a str, not a qbridge.Backend",
    ),
    "another name": (
        plugin("other"),
        "ValueError: plugin1:backend is named 'other', its entry point 'strange'",
    ),
    "options that are no options": (
        plugin("strange").replace("(BackendOptions)", ""),
        "TypeError: options of plugin1:backend are not a subclass of qbridge.BackendOptions",
    ),
    "options named as the core's keys": (
        plugin("strange", "codec: str = ''; loops: int = 1"),
        "ValueError: options of plugin1:backend use names of the core's own keys: codec, loops",
    ),
}


@pytest.mark.parametrize("source, reason", BROKEN.values(), ids=BROKEN)
def test_a_broken_backend_is_kept_with_its_reason_and_harms_no_other(
    install: Install, source: str, reason: str
) -> None:
    """The others load; the broken one is named with the reason where somebody asks for it."""
    install({"strange": "plugin1:backend"}, source)

    assert "memory" in installed_backends()
    assert "strange" not in installed_backends()
    assert reason == broken_backends()["strange"]
    with pytest.raises(BackendNotFoundError) as raised:
        find_backend("strange")
    assert f"backend is 'strange', which is installed but can't be loaded: {reason}" == str(raised.value)


def test_a_name_that_two_packages_claim_is_broken(install: Install) -> None:
    """Which of two would be taken depended on the order of sys.path; neither is."""
    install({"strange": "plugin1:backend"}, plugin("strange"))
    install({"strange": "plugin2:backend"}, plugin("strange"))

    assert "strange" not in installed_backends()
    expected = "several packages provide it (plugin1:backend, plugin2:backend): uninstall all but one"
    assert expected == broken_backends()["strange"]


NOT_FOUND = {
    "stor": "backend is 'stor', which no installed package provides (known: store); did you mean 'store'?",
    "nothing": "backend is 'nothing', which no installed package provides (known: store)",
    "Store": "backend is 'Store', which no installed package provides (known: store); did you mean 'store'?",
    "rabbitmq": "backend is 'rabbitmq', which no installed package provides (known: store); "
    'install it: pip install "qbridge[rabbitmq]"',
    "amqp": "backend is 'amqp', which no installed package provides (known: store); "
    'install it: pip install "qbridge[rabbitmq]"',
    "valkey": "backend is 'valkey', which no installed package provides (known: store); "
    'install it: pip install "qbridge[redis]"',
}


@pytest.mark.parametrize("name, message", NOT_FOUND.items())
def test_a_backend_that_is_not_there_is_told(name: str, message: str) -> None:
    """The error has the known names, the nearest one, and what to install for a well-known one."""
    with pytest.raises(BackendNotFoundError) as raised:
        find_backend(name, BACKENDS)

    assert message == str(raised.value)
    assert name == raised.value.name


def test_another_name_of_an_installed_backend_is_told() -> None:
    """Valkey speaks Redis's protocol; with the Redis backend installed there is nothing to install."""
    with pytest.raises(BackendNotFoundError, match=r"\(known: redis\); did you mean 'redis'\?"):
        find_backend("valkey", {"redis": STORE})


def test_without_any_backend_none_is_known() -> None:
    """An empty list of names is written as such."""
    with pytest.raises(BackendNotFoundError, match=r"provides \(known: none\)$"):
        find_backend("store", {})


def test_a_backend_object_is_its_own_answer() -> None:
    """A program may pass a backend that nobody installed."""
    assert STORE is find_backend(STORE)


def test_needs_are_looked_up_without_importing(install: Install) -> None:
    """Of what a backend needs, the missing modules are named with what to install; none is imported."""
    install({"strange": "plugin1:backend"}, plugin("strange"))
    install({}, "raise RuntimeError('imported')")
    backend = installed_backends()["strange"]
    backend.needs["plugin2.inner"] = "pip install plugin2"

    missing = missing_needs(backend)

    assert {"surely_absent.sub": "pip install surely-absent"} == missing
    assert "plugin2" not in sys.modules


def test_a_module_that_is_blocked_counts_as_missing(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """None in sys.modules makes an import fail, so it is no client library."""
    install({"strange": "plugin1:backend"}, plugin("strange"))
    monkeypatch.setitem(sys.modules, "surely_absent", None)

    assert ["surely_absent.sub"] == list(missing_needs(installed_backends()["strange"]))


def test_every_backend_has_a_status(install: Install) -> None:
    """The list has those that work, those that need something, the broken ones and the well-known absent ones."""
    install({"strange": "plugin1:backend"}, plugin("strange"))
    install({"odd": "plugin2:backend"}, "1 / 0")

    statuses = {status.name: status for status in backend_statuses()}

    assert sorted(statuses) == list(statuses)
    assert statuses["memory"].installed
    assert () == statuses["memory"].needs
    assert (
        BackendStatus(name="strange", summary="from a plug-in", installed=False, needs=("pip install surely-absent",))
        == statuses["strange"]
    )
    assert (
        BackendStatus(
            name="odd", summary="can't be loaded: ZeroDivisionError: division by zero", installed=False, needs=()
        )
        == statuses["odd"]
    )


def test_a_well_known_backend_that_is_not_installed_has_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any package on the path, what to install is told all the same."""
    monkeypatch.setattr(sys, "path", [])

    assert [
        BackendStatus(
            name="rabbitmq", summary="not installed", installed=False, needs=('pip install "qbridge[rabbitmq]"',)
        ),
        BackendStatus(name="redis", summary="not installed", installed=False, needs=('pip install "qbridge[redis]"',)),
    ] == list(backend_statuses())


def test_only_what_is_asked_for_is_loaded(tmp_path: Path) -> None:
    """A worker whose queue is in memory imports no other backend."""
    program = tmp_path / "program.py"
    program.write_text("import sys\nfrom qbridge import QBridge\nQBridge()\nprint(*sorted(sys.modules))\n")

    modules = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True).stdout.split()

    assert "qbridge_memory" in modules
    assert not {"qbridge_sqlite", "qbridge_redis", "qbridge_rabbitmq"} & set(modules)
