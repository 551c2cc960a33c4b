"""What several tests of the worker's parts begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qbridge import loops
from tests.support.ledger import Ledger


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """Handlers that can be watched; what a test has not let go on goes on at its end."""
    ledger = Ledger()
    yield ledger
    ledger.open(*ledger.started)


@pytest.fixture
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop gives a sign of life fifty times a second."""
    monkeypatch.setattr(loops, "HEARTBEAT", 0.02)
