"""Stalls: when a worker could not renew its leases, told by the worker itself, so that what they cost has a reason.

Its process was not run (it was frozen, or the machine was too busy), or its source was away for that long: outages that
follow upon each other, each of them too short for a lease, may cost one together.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from qbridge.outages import Outages
from tests.support.chaos.brokers import LEASE
from tests.support.chaos.incidents import Incident

__all__ = ["has_lost_source", "install", "told"]

#: Seconds for which a lease is renewed late: that is done each third of it.
LATE = LEASE / 3


def install(folder: Path) -> None:
    """Let this process tell of its stalls. Called once, in a worker, before it runs."""
    file = os.open(folder / "stalls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def tell(what: str, began: float) -> None:
        now = time.monotonic()
        if now - began > LATE:
            os.write(file, f"{os.getpid()} {began:.6f} {now:.6f} {what}\n".encode())

    _tell_of_outages(tell, os.open(folder / "losses", os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    threading.Thread(target=_tell_of_freezes, args=(tell,), name="stalls", daemon=True).start()


def has_lost_source(folder: Path, process: int, since: float) -> bool:
    """Return whether a worker has found its source lost since a monotonic second; its log tells not of each loss."""
    path = folder / "losses"
    losses = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return any(int(pid) == process and float(at) >= since for pid, at in losses)


def told(folder: Path) -> list[Incident]:
    """Return the stalls that workers told of; each may cost the leases of what runs, or starts soon after it."""
    path = folder / "stalls"
    incidents = []
    for line in path.read_text().splitlines() if path.exists() else ():
        process, began, over, what = line.split(maxsplit=3)
        incidents.append(
            Incident(
                fault=what,
                processes={int(process)},
                began=float(began),
                over_at=float(over),
                aftermath=LEASE,
                resumed_at=float(over),
            )
        )
    return incidents


def _tell_of_freezes(tell: Callable[[str, float], None]) -> None:
    before = time.monotonic()
    while True:
        time.sleep(0.05)
        tell("the worker was not run", before)
        before = time.monotonic()


def _tell_of_outages(tell: Callable[[str, float], None], losses: int) -> None:
    tell_lost, tell_ready = Outages.tell_lost, Outages.tell_ready
    lost_at: dict[Outages, float] = {}

    @functools.wraps(tell_lost)
    def lost(self: Outages, exc: Exception, *, delay: float) -> None:
        lost_at.setdefault(self, time.monotonic())
        os.write(losses, f"{os.getpid()} {time.monotonic():.6f}\n".encode())
        tell_lost(self, exc, delay=delay)

    @functools.wraps(tell_ready)
    def ready(self: Outages) -> None:
        if self in lost_at:
            tell("the worker's source was away", lost_at.pop(self))
        tell_ready(self)

    Outages.tell_lost, Outages.tell_ready = lost, ready  # type: ignore[method-assign]  # in a worker of a campaign only
