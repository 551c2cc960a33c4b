"""Faults, and incidents: what can be done to a running system, and what was done to it when."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.chaos.campaign import Campaign

__all__ = ["Fault", "Incident"]


@dataclass(slots=True, kw_only=True)
class Incident:
    """One injection of a fault. The function that injects it says whose runs it may repeat, and when it was over.

    Attributes:
        fault: The fault's name.
        began: Monotonic seconds right before it.
        over_at: Monotonic seconds when its cause was gone: the process dead, the broker back, the network healed. None
            takes the moment in which the injection has returned.
        processes: The processes of workers whose runs may be repeated because of it.
        aftermath: Seconds after its end in which runs that start may still be repeated because of it: a worker that was
            frozen may start what it had claimed before, under a lease that is almost over.
        reaches_all: Whether every worker's runs may be: the broker or the network was hit.
        resumed_at: When a task ended that was accepted after it was over; None if that took too long.
    """

    fault: str
    began: float = field(default_factory=time.monotonic)
    over_at: float | None = None
    processes: set[int] = field(default_factory=set)
    reaches_all: bool = False
    aftermath: float = 0.0
    resumed_at: float | None = None

    def is_over(self) -> None:
        """Take note that its cause is gone at this moment."""
        self.over_at = time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that can be done to a running system.

    Attributes:
        name: What it is called in reports: a few words.
        inject: Does it and undoes what can be undone; blocks until both have provably happened, within its own time
            limit, and raises AssertionError if they did not. It fills in the incident, before it does harm.
        within: Seconds after its end in which work must resume.
    """

    name: str
    inject: Callable[[Campaign, Incident], None]
    within: float = 20.0
