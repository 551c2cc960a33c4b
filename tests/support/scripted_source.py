"""ScriptedSource: a queue in memory whose connection fails, hangs and forgets when a test says so."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Final

from qbridge import Delivery, Outgoing, QueueStats, Settled, Settlement
from qbridge_memory import MemoryBroker, MemoryOptions, MemorySource
from tests.support.waiting import Latch

__all__ = ["HANG", "ScriptedSource", "Unanswered", "claimed_ids"]


class _HangError(Exception):
    """Stands in a script for a call that never returns."""


#: Scripted instead of an error: the call never returns.
HANG: Final = _HangError()


class Unanswered(Exception):  # noqa: N818  # it stands in a script for what happens to a call
    """Scripted for a settle whose answer is lost: the broker does it, and the call raises an error all the same.

    Args:
        error: What the call raises.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class ScriptedSource(MemorySource):
    """A memory source that keeps a record of its calls and fails by its script.

    Args:
        broker: Where its queue is.
        name: The queue's name there.
        lease: Seconds.
        changed: Called after every change, on the source's loop.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        name: str = "q",
        *,
        lease: float = 30.0,
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(name, MemoryOptions(lease=lease), broker=broker)
        self._changed = changed
        self._script: dict[str, deque[Exception | Latch | None]] = defaultdict(deque)
        self._standing: dict[str, Exception] = {}
        self._answers_lost = False
        #: Whether a receive is under way.
        self.is_receiving = False
        #: How often each method was called.
        self.calls: Counter[str] = Counter()
        #: The `limit` of each receive, and how many messages it returned.
        self.claims: list[tuple[int, int]] = []
        #: The settlements that the broker did, in order.
        self.settled: list[Settlement] = []
        #: How many settlements each call brought.
        self.settle_sizes: list[int] = []
        #: How many messages each send brought.
        self.send_sizes: list[int] = []

    def script(self, method: str, *faults: Exception | Latch | None) -> None:
        """Let the next calls of a method raise these, one each; None lets it work, a latch makes it wait first."""
        self._script[method].extend(faults)

    def is_scripted(self, method: str) -> bool:
        """Return whether something is still to happen to calls of a method."""
        return bool(self._script[method])

    def break_(self, method: str, fault: Exception) -> None:
        """Let every call of a method raise this, until it is mended."""
        self._standing[method] = fault

    def mend(self) -> None:
        """Let everything work from here on."""
        self._standing.clear()
        self._script.clear()

    def forget_claims(self) -> None:
        """Answer LOST to every settlement and every renewal from here on, as if the leases had run out."""
        self._answers_lost = True

    async def open(self) -> None:
        """Open, by the script."""
        await self._obey("open")
        await super().open()
        self._changed()

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim, by the script."""
        self.is_receiving = True
        try:
            await self._obey("receive")
            deliveries = await super().receive(limit, wait)
        finally:
            self.is_receiving = False
        self.claims.append((limit, len(deliveries)))
        self._changed()
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Settle, by the script."""
        unanswered = await self._obey("settle")
        self.settle_sizes.append(len(settlements))
        if self._answers_lost:
            outcomes: Sequence[Settled] = [Settled.LOST] * len(settlements)
        else:
            outcomes = await super().settle(settlements)
        self.settled += [done for done, outcome in zip(settlements, outcomes, strict=True) if outcome is Settled.DONE]
        self._changed()
        if unanswered is not None:
            raise unanswered.error
        return outcomes

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew, by the script."""
        await self._obey("keep_alive")
        lost = list(deliveries) if self._answers_lost else await super().keep_alive(deliveries)
        self._changed()
        return lost

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Send, by the script."""
        await self._obey("send")
        self.send_sizes.append(len(messages))
        await super().send(messages)

    async def stats(self) -> QueueStats:
        """Count, by the script."""
        await self._obey("stats")
        return await super().stats()

    async def close(self) -> None:
        """Close, by the script."""
        await super().close()
        await self._obey("close")

    async def _obey(self, method: str) -> Unanswered | None:
        self.calls[method] += 1
        self._changed()
        script = self._script[method]
        fault = script.popleft() if script else self._standing.get(method)
        if isinstance(fault, Latch):
            await fault.wait()
        elif isinstance(fault, Unanswered):
            return fault
        elif fault is HANG:
            await asyncio.get_running_loop().create_future()
        elif fault is not None:
            raise fault
        return None


async def claimed_ids(broker: MemoryBroker) -> list[str]:
    """Claim all that waits in a broker's queue; return the ids in order."""
    receiver = ScriptedSource(broker)
    await receiver.open()
    return [delivery.message_id for delivery in await receiver.receive(10_000, 0.0)]
