"""What becomes of a worker's deliveries when it leaves: each of them is finished, released or abandoned, never two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from qbridge.intake import Intake
from qbridge.source import Action

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

    Args:
        intakes: The intakes of the worker, which have not been asked to finish.
    """

    def __init__(self, intakes: Iterable[Intake]) -> None:
        self._intakes = tuple(intakes)
        #: How handlers ended.
        self.ended: Counter[Action] = Counter()
        #: Messages that were put back before their turn came.
        self.released_unstarted = 0
        #: Deliveries that another worker has got.
        self.lost = 0
        #: Handlers that outlived their cancellation.
        self.abandoned = 0
        self._unsettled = self._count_unsettled()

    def report(self) -> DrainReport:
        """Return what has become of all, when the intakes have finished."""
        left = self._count_unsettled()
        ended = self.ended + self._unsettled
        cancelled = self.ended[Action.RELEASE]
        released = ended.pop(Action.RELEASE, 0) + self.released_unstarted + self.lost - left[Action.RELEASE]
        return DrainReport(
            finished=ended.total() - (left.total() - left[Action.RELEASE]),
            released=released,
            cancelled=min(cancelled, released),
            abandoned=self.abandoned + left.total(),
        )

    def _count_unsettled(self) -> Counter[Action]:
        """Count the ends that the broker has not been told of."""
        return Counter(
            settlement.action
            for intake in self._intakes
            for settlement in intake.unsettled
            if intake.holds(settlement.delivery)
        )
