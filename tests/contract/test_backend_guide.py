"""The guide to writing a backend shows the example package as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbridge import BlockingSource
from tests.support.markdown import Block, blocks_of

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "custom-backend"
GUIDE = (ROOT / "docs" / "guides" / "write-a-backend.md").read_text("utf-8")
SECTION = GUIDE.partition("\n## A package of its own\n")[2]
FILES = {path: path.read_text("utf-8") for path in EXAMPLE.rglob("*") if path.suffix in {".py", ".toml"}}


def excerpts() -> list[Block]:
    """Return the blocks of the guide's section that are taken from the example."""
    return [block for block in blocks_of(SECTION) if "├" not in block.text]


def test_there_are_excerpts() -> None:
    """The section shows code and the entry point."""
    assert {"py", "text"} == {block.language for block in excerpts()}


@pytest.mark.parametrize("block", excerpts(), ids=lambda block: f"line {block.line}")
def test_an_excerpt_is_the_example_s_own_code(block: Block) -> None:
    """Each excerpt stands in the example line for line."""
    assert any(f"\n{block.text}" in text for text in FILES.values()), f"not in the example:\n{block.text}"


def test_the_tree_is_the_example_s() -> None:
    """The tree that the guide shows names the package's files, all of them."""
    [tree] = [block.text for block in blocks_of(SECTION) if "├" in block.text]
    shown = {line.strip("│├└─ ").split()[0].rstrip("/") for line in tree.splitlines()[1:]}

    package = {path.name for path in (EXAMPLE / "qbridge_spool").iterdir() if path.is_file()}

    assert package | {"pyproject.toml", "README.md", "qbridge_spool", "tests", "test_conformance.py"} == shown


def test_the_numbers_are_those_of_the_code() -> None:
    """What the guide says of time limits and intervals is what `BlockingSource` has."""
    numbers = {
        f"`poll_interval`, {BlockingSource.poll_interval:g} s if you don't",
        f"`call_timeout` ({BlockingSource.call_timeout:g} s)",
        f"`close_timeout` ({BlockingSource.close_timeout:g} s)",
    }

    assert set() == {number for number in numbers if number not in GUIDE}
