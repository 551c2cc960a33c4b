"""The table of faults says what the last long run of the campaigns noted."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_faults_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/concepts/reliability.md shows what docs/reference/chaos.json has."""
    monkeypatch.syspath_prepend(str(DOCS))
    spec = importlib.util.spec_from_file_location("chaos_table", DOCS / "chaos_table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    sys.modules.pop("model_tables", None)  # it stands beside that one

    assert table.page_with_table() == table.PAGE.read_text("utf-8"), "run `make docs`"


def test_the_noted_run_has_found_nothing_wrong() -> None:
    """Every row of the noted run was injected, and lost, doubled and delayed nothing without a reason."""
    noted = json.loads((DOCS / "reference" / "chaos.json").read_text("utf-8"))

    wrong = ("lost", "unexpected", "unexplained", "early", "wrongly_dead", "stuck")
    assert noted["rows"]
    assert [] == [row for row in noted["rows"] if not row["injections"] or any(row[kind] for kind in wrong)]
    assert noted["injections"] == sum(row["injections"] for row in noted["rows"])
