"""The tables of what was tried say what was noted, and what was noted can still be tried."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

MUTATIONS = tomllib.loads((ROOT / "tests" / "mutations.toml").read_text("utf-8"))["mutation"]


def test_the_tables_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of docs/concepts show what docs/reference has of campaigns, mutations and benchmarks."""
    monkeypatch.syspath_prepend(str(DOCS))
    spec = importlib.util.spec_from_file_location("noted_tables", DOCS / "noted_tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    sys.modules.pop("model_tables", None)  # it stands beside that one

    assert {"reliability.md", "performance.md"} == {page.name for page in tables.PAGES}
    for page in tables.PAGES:
        assert tables.page_with_tables(page) == page.read_text("utf-8"), "run `make docs`"


def test_the_noted_run_has_found_nothing_wrong() -> None:
    """Every row of the noted run was injected, and lost, doubled and delayed nothing without a reason."""
    noted = json.loads((DOCS / "reference" / "chaos.json").read_text("utf-8"))

    wrong = ("lost", "unexpected", "unexplained", "early", "wrongly_dead", "stuck")
    assert noted["rows"]
    assert [] == [row for row in noted["rows"] if not row["injections"] or any(row[kind] for kind in wrong)]
    assert noted["injections"] == sum(row["injections"] for row in noted["rows"])


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation["promise"] for mutation in MUTATIONS])
def test_a_mutation_can_be_tried(mutation: dict[str, str]) -> None:
    """What a mutation changes stands in its file once, and the test that it must break exists."""
    text = (ROOT / mutation["file"]).read_text("utf-8")

    assert 1 == text.count(mutation["find"])
    assert mutation["find"] != mutation["replace"]
    assert (ROOT / mutation["test"].partition("::")[0]).exists()


def test_every_promise_is_broken_once() -> None:
    """What was noted is what is listed: no mutation was added or left out since."""
    noted = json.loads((DOCS / "reference" / "mutations.json").read_text("utf-8"))

    assert [mutation["promise"] for mutation in MUTATIONS] == [row["promise"] for row in noted]
