"""SQLite faults: a disk without room, a file that somebody else has locked, a clock that is set.

Nothing is repeated for any of them but for a clock that is set forward, when all leases are over at once, and a disk
without any room, on which no lease can be renewed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.support.chaos.brokers import LEASE
from tests.support.chaos.campaign import Campaign
from tests.support.chaos.clock import advance_clock
from tests.support.chaos.incidents import Fault, Incident

__all__ = ["CLOCK", "DISK_FAULTS", "SQLITE_FAULTS"]

#: The module of handlers that lets the clocks of workers be set.
CLOCK = "tests.support.chaos.clock"

#: Seconds in which a fault is met under load.
_MET = 15.0

#: Seconds that the clock is set back, and forward.
_BACK, _FORWARD = 0.5 * LEASE, 3600.0

#: Bytes of a disk that a send must leave free, with the backend's default, and some more.
_RESERVE, _MORE = 16 * 2**20, 2 * 2**20


def _file(campaign: Campaign) -> Path:
    path = campaign.broker.path
    assert path is not None, "these faults are for campaigns on SQLite"
    return path


def _lock(campaign: Campaign, incident: Incident) -> None:
    """Let another process hold the file for less than a lease."""
    with closing(sqlite3.connect(_file(campaign), timeout=_MET, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            time.sleep(LEASE / 4)  # the fault itself
        finally:
            connection.execute("ROLLBACK")


def _set_back(campaign: Campaign, incident: Incident) -> None:
    """Set the clock back: what is delayed waits for longer, and leases last longer."""
    advance_clock(campaign.folder, -_BACK)
    ended = campaign.ledger.read().count["end"]
    campaign.wait(lambda: campaign.ledger.count["end"] > ended, "tasks flow on", _MET)


def _set_forward(campaign: Campaign, incident: Incident) -> None:
    """Set the clock an hour forward while nothing is delayed: all leases are over, unless their workers come first."""
    with campaign.producer_held():
        campaign.wait_until_empty()
        sent = set(campaign.send("work_long", LEASE, count=10))
        incident.reaches_all = True
        campaign.wait(lambda: campaign.ledger.ids("start").keys() >= sent, "the tasks run", _MET)
        advance_clock(campaign.folder, _FORWARD)
        campaign.wait(lambda: campaign.ledger.ids("end").keys() >= sent, "the tasks end", _MET)
        campaign.wait_until_empty()
    incident.aftermath = LEASE


@contextmanager
def _ballast(folder: Path, left: int) -> Iterator[None]:
    """Fill a disk but for so many bytes."""
    disk = os.statvfs(folder)
    size = disk.f_bavail * disk.f_frsize - left
    assert size > 0, f"the disk has less than {left} bytes left by itself"
    ballast = folder / "ballast"
    try:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        yield
    finally:
        ballast.unlink()


def _fill_to_the_reserve(campaign: Campaign, incident: Incident) -> None:
    """Leave the disk the reserve: sends are refused, and what is there is run to its end."""
    with _ballast(_file(campaign).parent, _RESERVE - _MORE):
        refused = len(campaign.book.read().sendings) - len(campaign.book.accepted)
        campaign.wait(
            lambda: len(campaign.book.sendings) - len(campaign.book.accepted) > refused + 10, "sends are refused", _MET
        )
        accepted = set(campaign.book.accepted)
        campaign.wait(lambda: campaign.ledger.ids("end").keys() >= accepted, "the queue is drained", 2 * _MET)


def _fill_wholly(campaign: Campaign, incident: Incident) -> None:
    """Leave the disk nothing: nothing can be claimed or settled until there is room again, leases may be over then."""
    incident.reaches_all = True
    with _ballast(_file(campaign).parent, 0):
        lost = sum("source lost" in line for worker in campaign.workers for line in worker.log)
        campaign.wait(
            lambda: (
                sum("source lost" in line for worker in campaign.workers for line in worker.log) > lost
                or time.monotonic() - incident.began > LEASE
            ),
            "workers meet it",
            _MET,
        )


#: What any file can be put through.
SQLITE_FAULTS = (
    Fault(name="file locked by another process", inject=_lock),
    Fault(name="clock set back", inject=_set_back),
    Fault(name="clock set an hour forward", inject=_set_forward),
)


#: What one on a small disk of its own can be put through beside.
DISK_FAULTS = (
    Fault(name="disk full but for the reserve", inject=_fill_to_the_reserve),
    Fault(name="disk full", inject=_fill_wholly),
)
