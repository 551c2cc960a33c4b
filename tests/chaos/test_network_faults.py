"""A network that cuts, resets, stalls, swallows and refuses, at any byte, while tasks flow through it.

The short form leaves out what differs little from what it has; the long form gives every fault several times, and some
of them to workers with the leases, heartbeats and time limits that users have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.chaos.brokers import rabbitmq_broker, redis_broker
from tests.support.chaos.campaign import Campaign, rounds
from tests.support.chaos.network_faults import IMPATIENCE, Network, network_between, network_faults, silences

IS_LONG = os.environ.get("QBRIDGE_CHAOS") == "long"

BROKERS = [pytest.param("redis", marks=pytest.mark.redis), pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)]


@contextmanager
def network_of(request: pytest.FixtureRequest, *, is_patient: bool) -> Iterator[Network]:
    """Start a broker, or take a queue on one, and put a network before it."""
    if request.param == "redis":
        with redis_broker() as broker, network_between(broker, is_patient=is_patient) as network:
            yield network
    else:
        broker = rabbitmq_broker(request.getfixturevalue("rabbitmq_server"))
        with network_between(broker, is_patient=is_patient) as network:
            yield network


@pytest.fixture(params=BROKERS)
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A network before each broker that is reached through one, and clients that give up soon."""
    with network_of(request, is_patient=False) as network:
        yield network


@pytest.fixture(params=BROKERS)
def patient_network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """The same with clients as users have them."""
    with network_of(request, is_patient=True) as network:
        yield network


@pytest.mark.timeout(120 + 300 * rounds())
def test_nothing_is_lost_whatever_the_network_does(network: Network, tmp_path: Path) -> None:
    """Every accepted message comes to its one end, and only what a lost connection had delivered is run again."""
    with Campaign(
        tmp_path,
        network.broker,
        family="network",
        handlers=[IMPATIENCE],
        producer_queue=network.producer_queue,
    ) as campaign:
        campaign.run(network_faults(network, is_short=not IS_LONG))

    unknown = {sending.message_id for sending in campaign.book.sendings.values() if sending.accepted_at is None}
    started = {entry.message_id for entry in campaign.ledger.entries if entry.kind == "start"}
    assert unknown & started, "no send reached the broker whose confirmation was lost"


@pytest.mark.skipif(not IS_LONG, reason="workers wait for up to a minute each time: QBRIDGE_CHAOS=long runs it")
@pytest.mark.timeout(1200)
def test_silence_is_found_out_by_workers_as_users_have_them(patient_network: Network, tmp_path: Path) -> None:
    """Half-open connections, stalls and black holes end by the time limits and heartbeats that are the defaults."""
    network = patient_network
    with Campaign(
        tmp_path, network.broker, family="network, defaults", producer_queue=network.producer_queue
    ) as campaign:
        campaign.run(silences(network), times=1)
