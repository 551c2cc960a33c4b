"""A backend that is not ours, as a stranger would install it: beside the wheel, found, tested with the kit, and run."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "custom-backend"

#: Seconds that building, installing, or the whole kit may take on a busy machine.
PATIENCE = 300

#: What a stranger may import of qbridge.
FRONT_DOORS = {"qbridge", "qbridge.testing"}

in_a_clean_environment = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]


class Room:
    """A virtual environment that has the two wheels and pytest, and a folder to work in.

    Args:
        folder: Empty; the environment is made in it.
    """

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "environment" / "bin"
        # Nothing of this checkout, nor of the environment that runs this test, may help.
        self._variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "QBRIDGE", "PYTEST"))
        }
        self._variables |= {"PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
        wheels = folder / "wheels"
        for project in (ROOT, EXAMPLE):
            self._run(
                sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, project, cwd=folder
            )
        self._run(sys.executable, "-m", "venv", "--without-pip", folder / "environment", cwd=folder)
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--python",
            self._bin / "python",
        ]
        pinned: list[str | Path] = ["--quiet", "--constraint", ROOT / "constraints.txt"]
        self._run(*pip, "install", *pinned, *sorted(wheels.glob("*.whl")), "pytest", cwd=folder)

    def run(self, command: str, *arguments: str, cwd: Path) -> str:
        """Run a command of the environment; return what it prints, and fail unless it exits with 0."""
        return self._run(self._bin / command, *arguments, cwd=cwd)

    def _run(self, *command: str | Path, cwd: Path) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=self._variables, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert 0 == done.returncode, f"{command} exits with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    """The clean environment."""
    folder = tmp_path_factory.mktemp("stranger")
    yield Room(folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("path", sorted(EXAMPLE.rglob("*.py")), ids=lambda path: str(path.relative_to(EXAMPLE)))
def test_it_imports_public_names_only(path: Path) -> None:
    """The example takes names from `qbridge` and `qbridge.testing`, which promise them, and from no module inside."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)

    assert set() == {module for module in modules if module.partition(".")[0] == "qbridge"} - FRONT_DOORS


class TestInACleanEnvironment:
    """What needs the environment; it is made once."""

    pytestmark = in_a_clean_environment

    def test_the_installed_packages_are_the_wheels(self, room: Room, tmp_path: Path) -> None:
        """Both packages come from the environment, not from this checkout."""
        program = "import qbridge, qbridge_spool; print(qbridge.__file__, qbridge_spool.__file__)"

        files = room.run("python", "-c", program, cwd=tmp_path).split()

        assert [True, True] == ["site-packages" in file for file in files]
        assert [] == [file for file in files if Path(file).is_relative_to(ROOT)]

    def test_it_is_found_by_its_entry_point(self, room: Room, tmp_path: Path) -> None:
        """`qbridge backends` lists the backend as installed, with its summary, once its package is there."""
        listed = json.loads(room.run("qbridge", "backends", "--format", "json", cwd=tmp_path))

        assert [True] == [backend["installed"] for backend in listed if backend["name"] == "spool"]
        assert "a folder of files" in room.run("qbridge", "backends", cwd=tmp_path)

    def test_its_options_are_in_the_schema(self, room: Room, tmp_path: Path) -> None:
        """`qbridge schema` describes the stranger's options as it does ours."""
        schema = room.run("qbridge", "schema", cwd=tmp_path)

        assert "Seconds between two looks into the folder" in schema

    def test_it_passes_the_kit(self, room: Room, tmp_path: Path) -> None:
        """The stranger's tests, the conformance kit among them, pass under plain pytest; only `cut` can't be given."""
        shutil.copytree(EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(EXAMPLE / "pyproject.toml", tmp_path)

        report = room.run("python", "-m", "pytest", "-rs", cwd=tmp_path)

        passed = re.search(r"(\d+) passed, 2 skipped in", report)
        assert passed is not None, report
        assert int(passed[1]) > 70
        assert {"TestSpool has no cut() hook"} == set(re.findall(r"^SKIPPED .*: (.*)$", report, re.MULTILINE))

    def test_a_service_runs_on_it(self, room: Room, tmp_path: Path) -> None:
        """The example's YAML passes the check; what is sent, and a file that is moved in, is run to the end."""
        for name in ("qbridge.yaml", "tasks.py"):
            shutil.copy(EXAMPLE / name, tmp_path)

        room.run("qbridge", "check", "-c", "qbridge.yaml", cwd=tmp_path)
        for name in ("world", "moon"):
            room.run("qbridge", "send", "-c", "qbridge.yaml", "greet", json.dumps({"name": name}), cwd=tmp_path)
        room.run("qbridge", "queues", "-c", "qbridge.yaml", cwd=tmp_path)  # opens the second queue, which nobody did
        (tmp_path / "essay.txt").write_text("three short words")
        (tmp_path / "essay.txt").rename(tmp_path / "dropped" / "ready" / "essay.txt")
        before = json.loads(room.run("qbridge", "queues", "-c", "qbridge.yaml", "--format", "json", cwd=tmp_path))
        printed = room.run("qbridge", "run", "-c", "qbridge.yaml", "--burst", cwd=tmp_path)
        after = json.loads(room.run("qbridge", "queues", "-c", "qbridge.yaml", "--format", "json", cwd=tmp_path))

        assert {"default": 2, "dropped": 1} == {row["queue"]: row["ready"] for row in before}
        assert ["3 words", "hello moon", "hello world"] == sorted(printed.splitlines())
        assert [(0, 0, 0, 0)] * 2 == [(row["ready"], row["delayed"], row["in_flight"], row["dead"]) for row in after]
