"""Worker faults: workers killed at each stage of a message's way, frozen for longer than a lease, or signalled."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing

from qbridge import ExitCode
from tests.support.chaos import failpoints, stalls
from tests.support.chaos.brokers import LEASE
from tests.support.chaos.campaign import Campaign
from tests.support.chaos.incidents import Fault, Incident
from tests.support.run_ledger import Entry
from tests.support.worker_process import WorkerProcess

__all__ = ["DEFAULT_LEASE", "DEFAULT_LEASE_KILLS", "FROZEN", "KILLS", "SIGNALS"]

#: Seconds of a lease that nobody has set; RabbitMQ has none, it knows of a dead process at once.
DEFAULT_LEASE = 30.0

#: Seconds in which a stage is reached under load.
_REACHED = 15.0

#: Seconds in which an orderly end comes under load: handlers take less than one.
_ORDERLY = 10.0

#: Seconds in which a frozen worker's messages are another's: RabbitMQ gives up a connection after some heartbeats.
_TAKEN_OVER = 20.0 * LEASE


def _kill_at(stage: str) -> Callable[[Campaign, Incident], None]:
    def inject(campaign: Campaign, incident: Incident) -> None:
        worker = campaign.pick()
        incident.processes.add(worker.pid)
        failpoints.arm(campaign.folder, worker.pid, stage)
        code = worker.wait(_REACHED)
        fired = failpoints.fired(campaign.folder, worker.pid)
        assert fired is not None, f"the worker ended with {code}, not at the stage {stage!r}: {worker.log[-5:]}"
        assert (-signal.SIGKILL, stage) == (code, fired[0])
        incident.began = fired[1]
        incident.is_over()
        campaign.replace(worker)

    return inject


def _kill(campaign: Campaign, incident: Incident) -> None:
    worker = campaign.pick()
    incident.processes.add(worker.pid)
    campaign.wait(lambda: len(campaign.running_in(worker.pid)) > 1, "the worker runs several tasks")
    incident.began = time.monotonic()
    worker.signal(signal.SIGKILL)
    assert -signal.SIGKILL == worker.wait(_ORDERLY)
    incident.is_over()
    campaign.replace(worker)


def _kill_and_see(campaign: Campaign, incident: Incident) -> None:
    """Kill a worker whose queue has the default lease, and wait until all that it ran runs elsewhere."""
    _kill(campaign, incident)
    held = campaign.running_in(next(iter(incident.processes)))
    killed_at = incident.began

    def running_again() -> set[str]:
        return {entry.message_id for entry in _starts(campaign) if entry.at > killed_at and entry.message_id in held}

    campaign.wait(lambda: running_again() == held, "what the worker ran runs elsewhere", DEFAULT_LEASE + _ORDERLY)


def _freeze(campaign: Campaign, incident: Incident) -> None:
    """Stop a worker with handlers at work until others have started their messages, and let it go on then."""
    worker = campaign.pick()
    incident.processes.add(worker.pid)
    incident.aftermath = LEASE
    seen = len(worker.log)
    held: set[str] = set()
    while not held:
        campaign.wait(lambda: len(campaign.running_in(worker.pid)) > 1, "the worker runs several tasks")
        incident.began = time.monotonic()
        worker.signal(signal.SIGSTOP)
        if not _holds_the_file(campaign):  # nobody could take over anything then
            held = campaign.running_in(worker.pid)
        if not held:
            worker.signal(signal.SIGCONT)
    try:
        campaign.wait(
            lambda: any(
                entry.message_id in held and entry.at > incident.began and entry.process != worker.pid
                for entry in _starts(campaign)
            ),
            "another worker has taken over a message of the frozen one",
            _TAKEN_OVER,
        )
    finally:
        worker.signal(signal.SIGCONT)
    incident.is_over()
    campaign.wait(
        lambda: _has_lost(campaign, worker, incident, seen), "the frozen worker finds out what it has lost", _REACHED
    )
    thawed_at = incident.over_at or 0.0
    campaign.wait(
        lambda: any(entry.process == worker.pid and entry.at > thawed_at for entry in _starts(campaign)),
        "the worker that was frozen runs new tasks",
    )
    campaign.workers.append(campaign.workers.pop(campaign.workers.index(worker)))  # another one is the next


def _holds_the_file(campaign: Campaign) -> bool:
    """Return whether somebody keeps the lock of an SQLite file for longer than a transaction takes."""
    if campaign.broker.path is None:
        return False
    with closing(sqlite3.connect(campaign.broker.path, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
    return False


def _starts(campaign: Campaign) -> Iterator[Entry]:
    return (entry for entry in campaign.ledger.entries if entry.kind == "start")


def _has_lost(campaign: Campaign, worker: WorkerProcess, incident: Incident, seen: int) -> bool:
    told = ("settlements came too late", "lease lost", "source lost")
    return any(text in line for line in worker.log[seen:] for text in told) or stalls.has_lost_source(
        campaign.folder, worker.pid, incident.began
    )


def _terminate(campaign: Campaign, incident: Incident) -> None:
    """Ask a worker to leave under load: it drains, and no run is made twice for that, so the incident names nobody."""
    worker = campaign.pick()
    campaign.wait(lambda: len(campaign.running_in(worker.pid)) > 1, "the worker runs several tasks")
    incident.began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert 0 == worker.wait(_ORDERLY), worker.log[-5:]
    incident.is_over()
    assert set() == campaign.running_in(worker.pid), "it left handlers behind"
    campaign.replace(worker)


def _terminate_twice(campaign: Campaign, incident: Incident) -> None:
    """Signal a worker twice: its handlers are cancelled, and their messages released."""
    worker = campaign.pick()
    incident.processes.add(worker.pid)
    campaign.wait(lambda: len(campaign.running_in(worker.pid)) > 1, "the worker runs several tasks")
    incident.began = time.monotonic()
    worker.signal(signal.SIGTERM)
    worker.wait_for(lambda _: any("draining" in line for line in worker.log), _ORDERLY)
    worker.signal(signal.SIGTERM)
    code = worker.wait(_ORDERLY)
    incident.is_over()
    assert code in (ExitCode.OK, ExitCode.GRACE_EXCEEDED), worker.log[-5:]
    assert set() == campaign.running_in(worker.pid), "it left handlers behind"
    campaign.replace(worker)


#: SIGKILL at each stage, and at any moment.
KILLS = (
    *(Fault(name=f"killed: {stage}", inject=_kill_at(stage)) for stage in failpoints.STAGES),
    Fault(name="killed at any moment", inject=_kill),
)

#: SIGKILL, with the default lease: how long it takes until others have what the worker had.
DEFAULT_LEASE_KILLS = (Fault(name="killed, with the default lease", inject=_kill_and_see),)

#: SIGSTOP past the lease, and SIGCONT.
FROZEN = (Fault(name="frozen past its lease", inject=_freeze),)

#: Signals that a worker heeds.
SIGNALS = (Fault(name="SIGTERM", inject=_terminate), Fault(name="SIGTERM twice", inject=_terminate_twice))
