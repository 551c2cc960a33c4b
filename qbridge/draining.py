"""What becomes of a worker's deliveries when it leaves: each of them is finished, released or abandoned, never two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qbridge.intake import Intake
from qbridge.source import Action, Settled, Settlement

__all__ = ["DrainReport", "DrainTally"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What became of the deliveries that a worker held when its drain began; each is counted once.

    Attributes:
        finished: Handlers that ended by themselves, well or not, and of whose ends the broker was told.
        released: Messages that the broker has back: not started yet, cancelled when the grace was over, or lost to
            another worker meanwhile.
        cancelled: How many of the released were cancelled.
        abandoned: Handlers that outlived their cancellation, and ends that did not reach the broker. Their messages
            come back when their leases run out.
    """

    finished: int = 0
    released: int = 0
    cancelled: int = 0
    abandoned: int = 0


class DrainTally:
    """Counts how deliveries end from the beginning of a drain. Belongs to the main thread's loop.

    It counts what the broker has answered, not what it was told: what is left at the end did not reach it.

    Args:
        intakes: The intakes of the worker, which have not been asked to finish.
    """

    def __init__(self, intakes: Iterable[Intake]) -> None:
        self._intakes = tuple(intakes)
        self._finished = 0
        self._released = 0
        #: Deliveries that another worker has got, as a renewal told.
        self.lost = 0
        #: Handlers that were cancelled.
        self.cancelled = 0
        #: Handlers that outlived their cancellation.
        self.abandoned = 0
        for intake in self._intakes:
            intake.count_ends(self._on_end)

    def report(self) -> DrainReport:
        """Return what has become of all, when the intakes have finished."""
        left = sum(intake.holds(settlement.delivery) for intake in self._intakes for settlement in intake.unsettled)
        released = self._released + self.lost
        return DrainReport(
            finished=self._finished,
            released=released,
            cancelled=min(self.cancelled, released),
            abandoned=self.abandoned + left,
        )

    def _on_end(self, settlement: Settlement, outcome: Settled) -> None:
        if settlement.action is Action.RELEASE or outcome is Settled.LOST:
            self._released += 1
        else:
            self._finished += 1
