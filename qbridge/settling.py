"""Settling: tells the broker how deliveries ended, in batches, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, MutableMapping
from itertools import islice
from time import monotonic

from qbridge.counts import QueueCounts
from qbridge.execution import Job
from qbridge.returns import Returns
from qbridge.source import Delivery, QueueSource, Settled, Settlement

__all__ = ["Settling"]

log = logging.getLogger("qbridge.intake")

#: Settlements in one call, after an outage too: a batch is bounded, however much has gathered.
MAX_SETTLE = 1000

_NOT_HELD = object()


class Settling:
    """What one source is still to be told. Belongs to the main thread's loop.

    Args:
        queue: The queue's name.
        source: The source.
        held: Deliveries claimed and not yet settled; those that the broker has settled are taken out.
        returns: Is told of ends that came too late.
        counts: Where they are counted.
        on_settled: Called after each batch.
    """

    def __init__(
        self,
        queue: str,
        source: QueueSource,
        held: MutableMapping[Delivery, Job | None],
        *,
        returns: Returns,
        counts: QueueCounts,
        on_settled: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._source = source
        self._held: MutableMapping[Delivery, Job | None] = held
        self._returns = returns
        self._counts = counts
        self._on_settled = on_settled
        #: The ends that the broker has not been told of, oldest first.
        self.waiting: deque[Settlement] = deque()
        #: Set when there is something to settle, or a reason to look around.
        self.work = asyncio.Event()
        #: Called with each end of what was held, and what the broker said of it; set while a worker leaves.
        self.on_end: Callable[[Settlement, Settled], None] | None = None
        self._connection: asyncio.Event | None = None

    async def run(
        self, due: dict[str, float], *, broken: asyncio.Event, finishing: asyncio.Event, timeout: float
    ) -> None:
        """Settle until the connection is lost, or all is settled and nothing more will come.

        Args:
            due: Calls under way, and when they must be over; shared with whoever watches them.
            broken: Set when the connection is lost.
            finishing: Set when nothing more will come.
            timeout: Seconds that one call may take.
        """
        self._connection = broken
        while not broken.is_set():
            if not self.waiting:
                if finishing.is_set():
                    return
                self.work.clear()
                await self.work.wait()
                continue
            batch = list(islice(self.waiting, MAX_SETTLE))
            due["settle"] = monotonic() + timeout
            async with asyncio.timeout(timeout):
                outcomes = await self._source.settle(batch)
            if broken is not self._connection:  # it was left behind, and another connection has told these
                return
            del due["settle"]
            late = 0
            for settlement, outcome in zip(batch, outcomes, strict=True):
                self.waiting.popleft()
                is_held = self._held.pop(settlement.delivery, _NOT_HELD) is not _NOT_HELD
                if outcome is Settled.LOST and is_held:
                    late += 1
                    self._returns.note_late(settlement)
                if is_held and self.on_end is not None:
                    self.on_end(settlement, outcome)
            if late:
                self._counts.late += late
                log.warning(
                    "settlements came too late, their messages run again", extra={"queue": self._queue, "count": late}
                )
            self._on_settled()
