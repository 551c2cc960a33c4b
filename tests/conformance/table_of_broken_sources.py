"""The page that shows what the conformance kit catches, made of the kit's rules and the sources that break them.

`python -m tests.conformance.table_of_broken_sources` writes it anew.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from qbridge.testing import SourceConformance
from qbridge.testing.conformance import ConformanceBase
from tests.conformance import broken_deliveries, broken_lives, broken_settlements
from tests.conformance.healthy import BROKEN, Broken

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "conformance.md"

#: Importing them fills `BROKEN`.
_MODULES = (broken_deliveries, broken_lives, broken_settlements)

_OPENING = """\
# What the conformance kit catches

For each test of the [kit](../guides/conformance-kit.md) there is at least one source that breaks its rule, and on which
that test fails. They stand in `tests/conformance/`, and `tests/conformance/test_kit_catches.py` runs each test on each
of its sources: {rules} rules, {sources} broken sources.

This page is made of them: `python -m tests.conformance.table_of_broken_sources` writes it anew.
"""


def page() -> str:
    """Return the page, Markdown."""
    sources = {broken.source_type for broken in BROKEN}
    tests = {name for name in dir(SourceConformance) if name.startswith("test_")}
    parts = [_OPENING.format(rules=len(tests), sources=len(sources))]
    for rules in SourceConformance.__bases__:
        assert issubclass(rules, ConformanceBase)
        heading = rules._anchor.replace("-", " ").capitalize()
        parts.append(f"\n## {heading}\n\n| the rule | a source that breaks it | the test that fails |\n|---|---|---|\n")
        for name, test in vars(rules).items():
            if not name.startswith("test_"):
                continue
            rule = _first_paragraph(test)
            for broken in BROKEN:
                if broken.test == name:
                    parts.append(f"| {rule} | {_described(broken)} | `{_failing(broken)}` |\n")
                    rule = ""  # once for all of its sources
    return "".join(parts).replace("|  |", "| |")


def _first_paragraph(documented: object) -> str:
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def _described(broken: Broken) -> str:
    what = _first_paragraph(broken.source_type)
    return f"`{broken.source_type.__name__}`: {what[:1].lower()}{what[1:].rstrip('.')}"


def _failing(broken: Broken) -> str:
    return "".join([broken.test, *(f"[{argument}]" for argument in broken.arguments)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} written", file=sys.stderr)
