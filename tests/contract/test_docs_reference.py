"""The reference is made from the code: it is fresh, and the test that says so can fail."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import qbridge
from qbridge import ExitCode
from qbridge.discovery import CORE_QUEUE_KEYS, installed_backends

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = ["api.md", "backends.md", "cli.md", "configuration.md", "exit-codes.md"]


def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the generator."""
    return subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages as the code makes them."""
    folder = tmp_path_factory.mktemp("reference")
    done = generate("--folder", str(folder))
    assert (0, "") == (done.returncode, done.stderr)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_as_the_code_makes_it(made: Path, page: str) -> None:
    """Each page of the reference is what `make docs` would write."""
    pin = re.search(r"^typer==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.M)
    if page == "cli.md" and (pin is None or pin[1] != version("typer")):
        pytest.skip("help texts are laid out by typer, and this is not the version that is pinned")

    assert (made / page).read_text("utf-8") == (REFERENCE / page).read_text("utf-8"), "run `make docs`"


def test_the_pages_are_all_of_them(made: Path) -> None:
    """The generator writes the pages that are tested here, and no other."""
    assert PAGES == sorted(path.name for path in made.iterdir())


def test_a_stale_page_is_noticed(made: Path, tmp_path: Path) -> None:
    """--check names what is stale or missing, writes nothing and exits with 1; writing makes all fresh."""
    for page in PAGES[1:]:
        (tmp_path / page).write_text((made / page).read_text("utf-8"), "utf-8")
    (tmp_path / "cli.md").write_text("old", "utf-8")

    checked = generate("--check", "--folder", str(tmp_path))
    left = (tmp_path / "cli.md").read_text("utf-8")
    written = generate("--folder", str(tmp_path))

    assert (1, {"cli.md", "api.md"}) == (checked.returncode, set(re.findall(r"^(\S+) is stale", checked.stdout, re.M)))
    assert "old" == left
    assert (0, "cli.md written\napi.md written\n") == (written.returncode, written.stdout)
    assert 0 == generate("--check", "--folder", str(tmp_path)).returncode


def test_every_option_has_its_description() -> None:
    """No key of the YAML file, and none of a backend, is without a word of what it is."""
    rows = table_rows((REFERENCE / "configuration.md").read_text("utf-8"))

    keys = [row[0] for row in rows if row[0].startswith("`")]
    assert [] == [row[0] for row in rows if row[-1] == ""]
    for name, backend in installed_backends().items():
        if f'<a id="backend-{name}">' in (REFERENCE / "configuration.md").read_text("utf-8"):
            assert {f"`{key}`" for key in backend.options.model_fields} <= set(keys)
    assert {f"`{key}`" for key in CORE_QUEUE_KEYS} <= set(keys)


def test_every_exit_code_is_told() -> None:
    """The page of exit codes has each by number and name."""
    rows = table_rows((REFERENCE / "exit-codes.md").read_text("utf-8"))

    assert {(f"`{int(code)}`", f"`{code.name}`") for code in ExitCode} <= {(row[0], row[1]) for row in rows}


def test_every_public_name_is_told() -> None:
    """The page of public names has each of `qbridge.__all__`, with a word of what it is."""
    rows = table_rows((REFERENCE / "api.md").read_text("utf-8"))

    assert {f"`{name}`" for name in qbridge.__all__} <= {row[0] for row in rows}
    assert [] == [row[0] for row in rows if row[-1] == ""]


def test_the_help_texts_are_plain() -> None:
    """The page of commands has no escape sequence and no line that a page of 100 columns would break."""
    text = (REFERENCE / "cli.md").read_text("utf-8")

    assert "\x1b" not in text
    lines = [line for line in text.splitlines() if not line.startswith(("    qbridge", "Each flag", "What each", "`"))]
    assert max(map(len, lines)) <= 100


def table_rows(page: str) -> list[list[str]]:
    """Return the cells of all tables of a page, without the headings."""
    lines = [line for line in page.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows if row[0] not in ("key", "code", "name", "ability")]
