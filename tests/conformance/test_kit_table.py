"""The page about what the kit catches is fresh and complete."""

from __future__ import annotations

import inspect

from tests.conformance.healthy import BROKEN
from tests.conformance.table_of_broken_sources import PAGE, page


def test_the_page_is_fresh() -> None:
    """docs/reference/conformance.md is what the tests of the kit make of it; the module that makes it can write it."""
    assert page() == PAGE.read_text("utf-8")


def test_every_broken_source_has_a_line_and_says_what_it_does() -> None:
    """Each pair of a source and the test that catches it is one line of the table, in the source's own words."""
    rows = [line for line in page().splitlines() if line.startswith("|") and "`test_" in line]

    assert len(BROKEN) == len(rows)
    assert [] == [broken.source_type for broken in BROKEN if "__doc__" not in vars(broken.source_type)]
    assert {4} == {line.count("|") for line in rows}
    for broken in BROKEN:
        assert inspect.getdoc(broken.source_type)
