"""RabbitMQ faults: a server that is killed, stopped, frozen, out of memory or disk, or loses connections and queues.

Whose runs a fault may repeat is said as narrowly as the broker promises it: what a lost connection had delivered comes
again, whatever has become of it; what costs no connection repeats nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from qbridge import SourceFull
from qbridge_rabbitmq.topology import GROWN_UP
from tests.support.chaos import stalls
from tests.support.chaos.brokers import LEASE
from tests.support.chaos.campaign import Campaign
from tests.support.chaos.incidents import Fault, Incident
from tests.support.rabbitmq_server import RabbitServer

__all__ = ["QUICK", "SLOW"]

#: Seconds in which a fault is met under load; those that frozen connections take are some heartbeats.
_MET, _NOTICED = 15.0, 20.0 * LEASE

#: Handlers that end before an alarm begins, and that fail before a kill.
_FLOW, _FAILURES = 30, 10


def _server(campaign: Campaign) -> RabbitServer:
    server = campaign.broker.rabbitmq
    assert server is not None, "these faults are for campaigns on RabbitMQ"
    return server


def _kill(campaign: Campaign, incident: Incident) -> None:
    """Kill the server once its queues are older than it needs to keep them: a younger one may never confirm again."""
    incident.reaches_all = True
    server = _server(campaign)
    failed = campaign.ledger.read().count["fail"]
    campaign.wait(lambda: campaign.ledger.count["fail"] > failed + _FAILURES, "delays of all lengths were used", _MET)
    time.sleep(2 * GROWN_UP)  # the time that the queues of these need
    incident.began = time.monotonic()
    server.kill()
    try:
        _all_workers_lose_it(campaign, incident, _MET)
    finally:
        server.start()


def _restart(campaign: Campaign, incident: Incident) -> None:
    incident.reaches_all = True
    server = _server(campaign)
    server.stop()
    server.start()


def _freeze_shortly(campaign: Campaign, incident: Incident) -> None:
    """Let the server be deaf for less than a heartbeat; nothing is repeated for that."""
    ended = campaign.ledger.read().count["end"]
    server = _server(campaign)
    server.freeze()
    try:
        time.sleep(LEASE / 2)  # the fault itself
    finally:
        server.thaw()
    incident.is_over()
    campaign.wait(lambda: campaign.ledger.count["end"] > ended, "handlers end after it", _MET)


def _freeze_until_noticed(campaign: Campaign, incident: Incident) -> None:
    incident.reaches_all = True
    server = _server(campaign)
    server.freeze()
    try:
        _all_workers_lose_it(campaign, incident, _NOTICED)
    finally:
        server.thaw()


def _cut_connections(campaign: Campaign, incident: Incident) -> None:
    incident.reaches_all = True
    closed = _server(campaign).ctl("close_all_connections", "a campaign wants it")
    assert "error" not in closed.lower(), closed


def _alarm(*, begin: tuple[str, str], end: tuple[str, str]) -> Callable[[Campaign, Incident], None]:
    """Return an alarm: sends are refused, and consumers drain what is there; nothing is repeated for that."""

    def inject(campaign: Campaign, incident: Incident) -> None:
        server = _server(campaign)
        before = campaign.ledger.read().count["end"]
        campaign.wait(lambda: campaign.ledger.count["end"] > before + _FLOW, "tasks flow", _MET)
        server.ctl(*begin)
        try:
            ended = campaign.ledger.read().count["end"]
            campaign.wait(lambda: _is_refused(campaign), "a send is refused", _MET)
            # What is copied, as retries are, waits for the end of the alarm; all else is run and acknowledged.
            campaign.wait(lambda: campaign.ledger.count["end"] > ended, "consumers go on", _MET)
        finally:
            server.ctl(*end)

    return inject


def _is_refused(campaign: Campaign) -> bool:
    try:
        campaign.send("work")
    except SourceFull:
        return True
    return False


def _delete_queue(campaign: Campaign, incident: Incident) -> None:
    """Delete the queue under its consumers while it is empty: it is made anew, and nothing is repeated."""
    with campaign.producer_held():
        campaign.wait_until_empty()
        deleted_at = time.monotonic()
        _server(campaign).ctl("delete_queue", campaign.broker.queue["queue"])
        campaign.wait(
            lambda: any(stalls.has_lost_source(campaign.folder, each.pid, deleted_at) for each in campaign.workers),
            "a consumer notices",
            _MET,
        )


def _all_workers_lose_it(campaign: Campaign, incident: Incident, within: float) -> None:
    campaign.wait(
        lambda: all(stalls.has_lost_source(campaign.folder, worker.pid, incident.began) for worker in campaign.workers),
        "every worker finds its source lost",
        within,
    )


#: What is over within seconds.
QUICK = (
    Fault(name="connections closed", inject=_cut_connections),
    Fault(
        name="memory alarm",
        inject=_alarm(begin=("set_vm_memory_high_watermark", "0.0000001"), end=("set_vm_memory_high_watermark", "0.8")),
    ),
    Fault(name="queue deleted under its consumers", inject=_delete_queue),
    Fault(name="server frozen for half a heartbeat", inject=_freeze_shortly),
)

#: What takes longer, and differs little from the others or from what other tests do.
SLOW = (
    Fault(name="server killed, started again", inject=_kill, within=30.0),
    Fault(
        name="disk alarm",
        inject=_alarm(begin=("set_disk_free_limit", "1000000000000000"), end=("set_disk_free_limit", "1MB")),
    ),
    Fault(name="server frozen until that is noticed", inject=_freeze_until_noticed, within=30.0),
    Fault(name="server stopped, started again", inject=_restart, within=30.0),
)
