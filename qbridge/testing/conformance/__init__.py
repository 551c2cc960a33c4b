"""SourceConformance: the rules of `qbridge.source` as tests that every backend runs.

Each test's docstring is the rule that it checks; a failure names the rule and where to read about it.
"""

from __future__ import annotations

from qbridge.testing.conformance.base import Clock, ConformanceBase, needs
from qbridge.testing.conformance.claiming import ClaimingRules
from qbridge.testing.conformance.dead_letters import DeadLetterRules
from qbridge.testing.conformance.leasing import LeasingRules
from qbridge.testing.conformance.life import LifeRules
from qbridge.testing.conformance.outages import OutageRules
from qbridge.testing.conformance.sending import SendingRules
from qbridge.testing.conformance.settling import SettlingRules
from qbridge.testing.conformance.stats import StatsRules
from qbridge.testing.conformance.waiting import WaitingRules

__all__ = ["Clock", "ConformanceBase", "SourceConformance", "needs"]


class SourceConformance(
    SendingRules,
    ClaimingRules,
    WaitingRules,
    LeasingRules,
    SettlingRules,
    DeadLetterRules,
    StatsRules,
    LifeRules,
    OutageRules,
):
    """Subclass it in a test file under a name that begins with `Test`; pytest runs the rest, without any plugin.

    Give `capabilities` and `new_source`, and where the broker allows it the hooks `restart`, `cut`, `kill_consumer`
    and `new_unreachable_source`. A test that needs an undeclared capability or a missing hook is skipped and says so;
    a declared capability that is absent fails.
    """
