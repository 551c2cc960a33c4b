"""Workers that die at each stage of a message's way, freeze, or are told to leave, while tasks flow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chaos.brokers import Broker
from tests.support.chaos.campaign import Campaign, campaign_timeout
from tests.support.chaos.worker_faults import FROZEN, KILLS, SIGNALS

FAULTS = (*KILLS, *FROZEN, *SIGNALS)


@pytest.mark.timeout(campaign_timeout(FAULTS))
def test_nothing_is_lost_whatever_becomes_of_workers(chaos_broker: Broker, tmp_path: Path) -> None:
    """Every accepted message comes to its one end, and what is run again was held by a worker that was hit."""
    with Campaign(tmp_path, chaos_broker, family="workers") as campaign:
        campaign.run(FAULTS)
