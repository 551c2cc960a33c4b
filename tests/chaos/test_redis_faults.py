"""A Redis server that dies, freezes, fills up, forgets and refuses, while tasks flow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chaos.brokers import redis_broker
from tests.support.chaos.campaign import Campaign, campaign_timeout
from tests.support.chaos.redis_faults import REDIS_FAULTS

pytestmark = pytest.mark.redis


@pytest.mark.timeout(campaign_timeout(REDIS_FAULTS))
def test_nothing_is_lost_whatever_becomes_of_redis(tmp_path: Path) -> None:
    """Every accepted message comes to its one end; only what costs leases repeats a run."""
    with redis_broker() as broker, Campaign(tmp_path, broker, family="broker") as campaign:
        campaign.run(REDIS_FAULTS)
