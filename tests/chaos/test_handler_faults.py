"""Handlers that end their process, hang, block, ignore their cancelling and raise anything, while tasks flow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.chaos.brokers import Broker
from tests.support.chaos.campaign import Campaign, campaign_timeout
from tests.support.chaos.handler_faults import BAD_HANDLERS, HANDLER_FAULTS, SETTINGS


@pytest.mark.timeout(campaign_timeout(HANDLER_FAULTS))
def test_nothing_is_lost_whatever_handlers_do(chaos_broker: Broker, tmp_path: Path) -> None:
    """Every message comes to its one end, bad ones as dead letters, and takes nothing else along."""
    if chaos_broker.backend != "sqlite" and os.environ.get("QBRIDGE_CHAOS") != "long":
        pytest.skip("a part of the long form: what handlers do to their process is the same on every broker")
    with Campaign(tmp_path, chaos_broker, family="handlers", handlers=[BAD_HANDLERS], settings=SETTINGS) as campaign:
        campaign.run(HANDLER_FAULTS)
