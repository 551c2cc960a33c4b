"""A RabbitMQ server that dies, freezes, fills up, and loses connections and queues, while tasks flow.

The short form leaves out what takes longest, as killing the server; `test_broker_outage` stops it in each run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.chaos.brokers import rabbitmq_broker
from tests.support.chaos.campaign import Campaign, campaign_timeout
from tests.support.chaos.rabbitmq_faults import QUICK, SLOW
from tests.support.rabbitmq_server import RabbitServer

pytestmark = pytest.mark.rabbitmq

FAULTS = (*QUICK, *SLOW) if os.environ.get("QBRIDGE_CHAOS") == "long" else QUICK


@pytest.mark.timeout(campaign_timeout(FAULTS))
def test_nothing_is_lost_whatever_becomes_of_rabbitmq(rabbitmq_server: RabbitServer, tmp_path: Path) -> None:
    """Every accepted message comes to its one end; only what a lost connection had delivered is run again."""
    try:
        with Campaign(tmp_path, rabbitmq_broker(rabbitmq_server), family="broker") as campaign:
            campaign.run(FAULTS)
    finally:
        rabbitmq_server.thaw()
        rabbitmq_server.start()
