"""The kit fails on a source that breaks a rule, for each of its tests, and on no healthy one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qbridge.testing import SourceConformance
from tests.conformance import broken_deliveries, broken_lives, broken_settlements
from tests.conformance.healthy import BROKEN, Broken, HealthyKit

MODULES = (broken_deliveries, broken_lives, broken_settlements)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Undo what a source left behind on purpose."""
    yield
    while broken_lives.UNDO:
        broken_lives.UNDO.pop(0)()


class TestHealthy(HealthyKit):
    """A source that breaks nothing passes every test, those of outages too: what fails below fails for its fault."""


@pytest.mark.parametrize(
    "broken", BROKEN, ids=[" ".join([one.source_type.__name__, one.test, *one.arguments]) for one in BROKEN]
)
def test_a_broken_rule_is_caught(broken: Broken) -> None:
    """The test of a rule fails on a source that breaks it, and says which rule that is."""
    kit = type("BrokenKit", (HealthyKit,), {"source_type": broken.source_type, "patience": 1.0})()
    kit.setup_method()

    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        getattr(kit, broken.test)(*broken.arguments)

    [rule, place] = caught.value.__notes__
    assert rule.startswith("broken rule: ")
    assert "qbridge.source" in place


def test_every_test_of_the_kit_can_fail() -> None:
    """For each test of the kit there is a source on which it fails."""
    assert {name for name in dir(SourceConformance) if name.startswith("test_")} == {one.test for one in BROKEN}
