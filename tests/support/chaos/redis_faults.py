"""Redis faults: a server that is killed, stopped, frozen, paused, full, cut off from its clients, or refuses writes.

Whose runs a fault may repeat is said as narrowly as the backend promises it: what is over before a lease repeats
nothing, as a claim or a settlement whose reply was lost is recognised. What takes longer may cost leases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support.chaos.brokers import LEASE
from tests.support.chaos.campaign import Campaign
from tests.support.chaos.incidents import Fault, Incident
from tests.support.redis_server import RedisServer

__all__ = ["REDIS_FAULTS"]

#: Seconds that are well within a lease, though its last renewal is some time ago; and seconds that no lease outlives.
_SHORT, _LONG = 0.5 * LEASE / 2, 1.5 * LEASE

#: Seconds in which a fault is met under load.
_MET = 15.0

#: Bytes of memory that a full server still has: for commands that free some.
_SPARE = 64 * 2**10


def _server(campaign: Campaign) -> RedisServer:
    server = campaign.broker.redis
    assert server is not None, "these faults are for campaigns on Redis"
    return server


def _kill(campaign: Campaign, incident: Incident) -> None:
    _server(campaign).kill()
    _server(campaign).start()
    _may_have_cost_leases(incident)


def _restart(campaign: Campaign, incident: Incident) -> None:
    _server(campaign).restart()
    _may_have_cost_leases(incident)


def _may_have_cost_leases(incident: Incident) -> None:
    """Take note that a fault took so long that leases could not be renewed in time: the machine is busy."""
    incident.reaches_all = time.monotonic() - incident.began > LEASE / 4
    incident.aftermath = LEASE  # what was claimed before may start now, under a lease that is almost over


def _frozen_for(seconds: float) -> Callable[[Campaign, Incident], None]:
    def inject(campaign: Campaign, incident: Incident) -> None:
        incident.reaches_all = seconds > LEASE / 2
        incident.aftermath = LEASE  # what was claimed before may start now, under a lease that is almost over
        ended = campaign.ledger.read().count["end"]
        server = _server(campaign)
        server.freeze()
        try:
            time.sleep(seconds)  # the fault itself: the server is deaf for so long
        finally:
            server.thaw()
        incident.is_over()
        campaign.wait(lambda: campaign.ledger.count["end"] > ended, "handlers end after it")

    return inject


def _pause(campaign: Campaign, incident: Incident) -> None:
    """Let the server put all commands of clients off, as a failover does."""
    _server(campaign).cli("CLIENT", "PAUSE", int(_SHORT * 1000), "ALL")
    began = time.monotonic()
    _server(campaign).cli("PING")
    assert time.monotonic() - began > _SHORT / 2, "the pause held nobody up"


def _flush_scripts(campaign: Campaign, incident: Incident) -> None:
    """Let the server forget all scripts, as it does when it starts; nothing is repeated for that."""
    _server(campaign).cli("SCRIPT", "FLUSH", "SYNC")
    campaign.wait(lambda: _scripts_known(campaign) > 0, "a script is loaded again", _MET)


def _scripts_known(campaign: Campaign) -> int:
    return int(_server(campaign).info("memory")["number_of_cached_scripts"])


def _cut_clients(campaign: Campaign, incident: Incident) -> None:
    """Let the server hang up on all clients at any moment of their commands; nothing is repeated for that."""
    cut = int(_server(campaign).cli("CLIENT", "KILL", "TYPE", "normal"))
    assert cut >= len(campaign.workers), f"only {cut} connections were there to be cut"


@contextmanager
def _setting(server: RedisServer, key: str, value: object) -> Iterator[None]:
    before = server.cli("CONFIG", "GET", key).splitlines()[1]
    server.cli("CONFIG", "SET", key, str(value))
    try:
        yield
    finally:
        server.cli("CONFIG", "SET", key, before)


def _fill(campaign: Campaign, incident: Incident) -> None:
    """Leave the server no memory: sends are refused, and all that is there is run to its end; nothing is repeated."""
    server = _server(campaign)
    full = int(server.info("memory")["used_memory"]) - _SPARE
    refused = _refusals(server, "OOM")
    with _setting(server, "maxmemory-policy", "noeviction"), _setting(server, "maxmemory", full):
        campaign.wait(lambda: _refusals(server, "OOM") > refused + 10, "sends are refused", _MET)
        accepted = set(campaign.book.accepted)
        campaign.wait(lambda: campaign.ledger.ids("end").keys() >= accepted, "a full server is drained", 2 * _MET)


def _refuse_writes(campaign: Campaign, incident: Incident) -> None:
    """Let the server refuse every write, as a primary that has lost its replicas may."""
    server = _server(campaign)
    refused = _refusals(server, "NOREPLICAS")
    with _setting(server, "min-replicas-to-write", 1):
        # A claim, a settlement and a renewal of each worker at the least, and some sends.
        campaign.wait(lambda: _refusals(server, "NOREPLICAS") > refused + 10, "writes are refused", _MET)
    _may_have_cost_leases(incident)


def _refusals(server: RedisServer, code: str) -> int:
    """Return how many commands the server has refused with an error code, since its start."""
    told = server.info("errorstats").get(f"errorstat_{code}", "count=0")
    return int(told.partition("=")[2])


#: All that is done to a Redis server.
REDIS_FAULTS = (
    Fault(name="server killed, started again", inject=_kill),
    Fault(name="server stopped, started again", inject=_restart),
    Fault(name="server frozen for a quarter of a lease", inject=_frozen_for(_SHORT)),
    Fault(name="server frozen past the leases", inject=_frozen_for(_LONG)),
    Fault(name="CLIENT PAUSE", inject=_pause),
    Fault(name="SCRIPT FLUSH", inject=_flush_scripts),
    Fault(name="CLIENT KILL of all", inject=_cut_clients),
    Fault(name="memory full", inject=_fill),
    Fault(name="writes refused (NOREPLICAS)", inject=_refuse_writes),
)
