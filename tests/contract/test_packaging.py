"""What is shipped: the list of backends, the wheel, the extras, the pins."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import qbridge

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = SETTINGS["project"]
BACKENDS = sorted(path.name for path in (ROOT / "backends").iterdir() if (path / "__init__.py").exists())
PACKAGES = [ROOT / "qbridge", *(ROOT / "backends" / name for name in BACKENDS)]
PINS = (ROOT / "constraints.txt").read_text("utf-8").splitlines()

# The oldest and the newest Python that the project supports; a requirement may be for one of them only.
PYTHONS = ("3.11.0", "3.14.0")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert 0 == built.returncode, built.stdout + built.stderr
    [file] = folder.glob("*.whl")
    return zipfile.Path(file)


def test_every_backend_is_in_the_wheel_s_list() -> None:
    """The packages that pyproject.toml ships are the core and every folder of backends/."""
    listed = SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert sorted(["qbridge", *(f"backends/{name}" for name in BACKENDS)]) == sorted(listed)


def test_every_backend_has_its_entry_point() -> None:
    """Each folder of backends/ is found under its short name, as `qbridge_<name>:backend`."""
    expected = {name.removeprefix("qbridge_"): f"{name}:backend" for name in BACKENDS}

    assert expected == PROJECT["entry-points"]["qbridge.backends"]


def test_import_linter_looks_at_every_package() -> None:
    """No package is outside the contracts about imports."""
    assert {"qbridge", *BACKENDS} == set(SETTINGS["tool"]["importlinter"]["root_packages"])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_package_says_that_it_is_typed(package: Path) -> None:
    """A type checker reads a package's annotations only if it has a py.typed."""
    assert (package / "py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_wheel_has_every_file_of_a_package(package: Path, wheel: zipfile.Path) -> None:
    """Modules, py.typed and data files such as Lua scripts are all shipped, and nothing beside them."""
    expected = {
        str(path.relative_to(package.parent))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert expected == {name for name in files(wheel) if name.startswith(f"{package.name}/")}


def test_the_wheel_has_nothing_beside_the_packages(wheel: zipfile.Path) -> None:
    """No tests, docs or folder named backends end up in site-packages."""
    top = {name.partition("/")[0] for name in files(wheel)}

    assert {"qbridge", *BACKENDS, f"qbridge-{qbridge.__version__}.dist-info"} == top


def test_the_wheel_has_the_entry_points(wheel: zipfile.Path) -> None:
    """The command and each backend are registered in the wheel's own metadata."""
    text = (wheel / f"qbridge-{qbridge.__version__}.dist-info" / "entry_points.txt").read_text("utf-8")

    assert "qbridge = qbridge.cli:main" in text.splitlines()
    for name in BACKENDS:
        assert f"{name.removeprefix('qbridge_')} = {name}:backend" in text.splitlines()


def test_the_extra_all_takes_every_other_extra() -> None:
    """`pip install "qbridge[all]"` leaves no backend and no accelerator out."""
    extras = PROJECT["optional-dependencies"]
    [everything] = [Requirement(line) for line in extras["all"]]

    assert set(extras) - {"all"} == everything.extras


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_loads_without_its_client(name: str) -> None:
    """Importing a backend, and reading its options, needs neither its client library nor any other backend's."""
    blocked = sorted(
        {
            canonicalize_name(Requirement(line).name).replace("-", "_")
            for extra, lines in PROJECT["optional-dependencies"].items()
            if extra != "all"
            for line in lines
        }
    )
    program = f"""
import sys
sys.modules.update(dict.fromkeys({blocked!r}))  # None: an import of it raises ImportError
import {name}, qbridge
assert isinstance({name}.backend, qbridge.Backend)
print({name}.backend.options.model_json_schema()["type"])
"""

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=30, check=False
    )

    assert "" == ran.stderr
    assert "object\n" == ran.stdout


def test_the_core_loads_no_broker_s_library() -> None:
    """`import qbridge` loads no client library and no backend, so it costs only what it needs."""
    program = "import sys, qbridge; print(*sorted({name.partition('.')[0] for name in sys.modules}))"

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)

    assert set() == {"redis", "hiredis", "sqlite3", "uvloop", *BACKENDS} & set(ran.stdout.split())


def test_the_pins_are_versions_and_nothing_else() -> None:
    """Each line of constraints.txt is name==version in plain order: no address, no hash, no option."""
    assert [] == [line for line in PINS if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert sorted(set(PINS)) == PINS


def test_every_requirement_is_pinned() -> None:
    """Each package that the project, an extra, the tools or the build needs, and each that those need, has a pin."""
    pinned = {line.partition("==")[0] for line in PINS}

    needed = {name for python in PYTHONS for name in closure(requirements(), python)}

    assert set() == needed - pinned, "install what is missing, then add its name==version to constraints.txt"
    assert set() == pinned - needed, "nothing needs these any more"


def test_no_pin_contradicts_a_requirement() -> None:
    """Each pin is within the range that pyproject.toml gives for the same package."""
    pins = dict(line.split("==") for line in PINS)

    assert [] == [str(each) for each in requirements() if pins[canonicalize_name(each.name)] not in each.specifier]


def test_the_tree_locks_no_addresses() -> None:
    """No lock file says where packages come from: pip's settings do."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)

    locks = re.findall(r"^.*?(?:[\w.-]+\.lock|package-lock\.json|pylock[\w.]*\.toml)$", listed.stdout, re.MULTILINE)

    assert [] == locks


def test_the_version_is_the_newest_in_the_changelog() -> None:
    """The top version of docs/changelog.md is the one that the package says it has."""
    changelog = (ROOT / "docs" / "changelog.md").read_text("utf-8")

    versions = re.findall(r"^## \[?v?(\d[\w.]*)", changelog, flags=re.MULTILINE)

    assert qbridge.__version__ == versions[0]


def requirements() -> list[Requirement]:
    """All that pyproject.toml asks for, in any of its places, and what pip needs for that."""
    lines = [
        *PROJECT["dependencies"],
        *(line for extra, lines in PROJECT["optional-dependencies"].items() if extra != "all" for line in lines),
        *SETTINGS["dependency-groups"]["dev"],
        *SETTINGS["build-system"]["requires"],
        "editables",  # hatchling asks for it when the install is an editable one
        "pip",
    ]
    return [Requirement(line) for line in lines]


def files(wheel: zipfile.Path) -> list[str]:
    """The files in the wheel; a build may list folders as well."""
    return [name for name in wheel.root.namelist() if not name.endswith("/")]


def closure(requirements: list[Requirement], python: str) -> set[str]:
    """Return the names of the requirements and of all that they need, on a Python that may not be the running one.

    A package that is not installed here, since the running Python does not need it, is named without its own needs.
    """
    versions = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
    found: set[tuple[str, str]] = set()
    pending = [(requirement, "") for requirement in requirements]
    while pending:
        requirement, parent_extra = pending.pop()
        if requirement.marker and not requirement.marker.evaluate({**versions, "extra": parent_extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            needs = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            needs = []
        for extra in {"", *requirement.extras}:
            if (name, extra) not in found:
                found.add((name, extra))
                pending.extend((need, extra) for need in needs)
    return {name for name, _ in found}
