"""Workers that die at each stage of a message's way, freeze, or are told to leave, while tasks flow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.chaos.brokers import Broker
from tests.support.chaos.campaign import Campaign, campaign_timeout, rounds
from tests.support.chaos.worker_faults import DEFAULT_LEASE, DEFAULT_LEASE_KILLS, FROZEN, KILLS, SIGNALS

FAULTS = (*KILLS, *FROZEN, *SIGNALS)


@pytest.mark.timeout(campaign_timeout(FAULTS))
def test_nothing_is_lost_whatever_becomes_of_workers(chaos_broker: Broker, tmp_path: Path) -> None:
    """Every accepted message comes to its one end, and what is run again was held by a worker that was hit."""
    with Campaign(tmp_path, chaos_broker, family="workers") as campaign:
        campaign.run(FAULTS)


@pytest.mark.skipif(rounds() == 1, reason="a part of the long form: waits for the default lease")
@pytest.mark.timeout(campaign_timeout(DEFAULT_LEASE_KILLS) + DEFAULT_LEASE)
def test_what_a_killed_worker_had_runs_elsewhere_within_the_default_lease(chaos_broker: Broker, tmp_path: Path) -> None:
    """Measured from the kill until the last of its messages has started in another worker."""
    keys = {key: value for key, value in chaos_broker.queue.items() if key not in ("lease", "heartbeat")}
    with Campaign(tmp_path, replace(chaos_broker, queue=keys), family="workers") as campaign:
        verdict = campaign.run(DEFAULT_LEASE_KILLS, times=1)

    [killed] = campaign.incidents
    taken_over = max((repeat.at for repeat in verdict.repeats), default=killed.began)
    assert taken_over - killed.began < DEFAULT_LEASE + 2.0, "the lease, and the seconds in which others look around"
