"""The guide to the kit tells the truth: its example runs, and each rule stands where a failure says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from qbridge.testing import SourceConformance

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "conformance-kit.md"


@pytest.fixture(scope="module")
def guide() -> str:
    """The guide's text."""
    return GUIDE.read_text(encoding="utf-8")


def test_the_example_runs_without_a_plugin(guide: str, pytester: pytest.Pytester) -> None:
    """The example of the guide is a test file that passes under plain pytest."""
    [example] = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    pytester.makepyfile(example)

    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-k", "settl or byte_for_byte or lost")

    outcomes = result.parseoutcomes()
    assert outcomes["passed"] >= 10
    assert {"passed", "skipped", "deselected"} >= outcomes.keys()


@pytest.mark.parametrize("rules", SourceConformance.__bases__, ids=lambda rules: rules.__name__)
def test_each_rule_stands_in_the_guide(guide: str, rules: type[SourceConformance]) -> None:
    """Under the heading that a failure names, the guide has each rule in the words of the failure."""
    sections = re.split(r"^### (.+)\n", guide, flags=re.MULTILINE)[1:]
    by_anchor = {
        heading.lower().replace(" ", "-"): section
        for heading, section in zip(sections[::2], sections[1::2], strict=True)
    }

    tests = [member for name, member in vars(rules).items() if name.startswith("test_")]
    missing = [rule for test in tests if f"- {(rule := inspect.getdoc(test))}" not in by_anchor[rules._anchor]]

    assert [] == missing
    assert len(tests) == by_anchor[rules._anchor].count("\n- ")
