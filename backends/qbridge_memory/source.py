"""MemorySource: the contract, spoken by a queue in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PrivateAttr

from qbridge import (
    BackendOptions,
    Capabilities,
    DeadLetter,
    Delivery,
    Duration,
    Outgoing,
    QueueSource,
    QueueStats,
    Settled,
    Settlement,
    SourceClosed,
)
from qbridge_memory.bell import Bell
from qbridge_memory.broker import MemoryBroker

__all__ = ["CAPABILITIES", "MemoryOptions", "MemorySource"]

#: What every memory queue can do.
CAPABILITIES = Capabilities(
    durable=False,
    shared=False,
    ordered=True,
    delay=True,
    lease="timeout",
    attempts=True,
    headers=True,
    dead_letters=True,
)


class MemoryOptions(BackendOptions):
    """Options of a memory queue.

    Attributes:
        lease: Seconds after which a delivery without a sign of life is handed to somebody else.
        max_messages: How many messages the queue holds, dead letters included; a send beyond it is refused.
    """

    lease: Annotated[Duration, Field(gt=0)] = 30.0
    max_messages: Annotated[int, Field(ge=1)] = 1_000_000

    _broker: MemoryBroker = PrivateAttr(default_factory=MemoryBroker)

    @property
    def broker(self) -> MemoryBroker:
        """Where a queue with just these options lives, unless its source is given another broker."""
        return self._broker


class MemorySource(QueueSource):
    """A queue in this process, as one worker or producer sees it.

    Sources of one queue may live on different event loops and threads; each one belongs to the loop that opened it.

    Args:
        name: The queue's name in `broker`.
        options: None takes the defaults.
        broker: Where the queue is; None takes the options' own, which other sources with the same object share.
    """

    capabilities = CAPABILITIES

    def __init__(self, name: str, options: MemoryOptions | None = None, *, broker: MemoryBroker | None = None) -> None:
        self._options = options if options is not None else MemoryOptions()
        self.lease: float = self._options.lease
        self._queue = (self._options.broker if broker is None else broker).queue(name)
        self._is_open = False
        self._is_woken = False
        self._bell: Bell | None = None

    async def open(self) -> None:
        """Begin to take calls. Nothing can fail."""
        self._is_open = True
        self._is_woken = False

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim up to `limit` messages. Cancelling loses none: nothing is awaited once they are claimed.

        `wait` is measured by the event loop, whatever clock the broker has.
        """
        self._check_open()
        # Gives other tasks of the loop their turn, as every source that reads a socket does.
        await asyncio.sleep(0)
        deliveries = self._queue.claim(limit, self.lease) if self._is_open else []
        if not deliveries and wait > 0:
            deliveries = await self._claim_within(limit, wait)
        self._is_woken = False
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """End deliveries of this source. A second settlement of one delivery is LOST."""
        self._check_open()
        return self._queue.settle(settlements, self.lease)

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Add all of `messages`, or none."""
        self._check_open()
        self._queue.send(messages, max_messages=self._options.max_messages)

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Start the leases of this source's deliveries anew; return those that are no longer in flight."""
        self._check_open()
        return self._queue.keep_alive(deliveries, self.lease)

    async def stats(self) -> QueueStats:
        """Count what is in the queue."""
        self._check_open()
        return self._queue.stats()

    async def dead_letters(
        self, *, limit: int = 100, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[DeadLetter]:
        """List dead letters, oldest first."""
        self._check_open()
        return self._queue.dead_letters(limit=limit, after=after, ids=ids)

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Make dead letters ready again."""
        self._check_open()
        return self._queue.redrive(ids)

    async def purge(self, ids: Sequence[str] | None = None) -> int:
        """Delete dead letters."""
        self._check_open()
        return self._queue.purge(ids)

    def wake(self) -> None:
        """Let the waiting receive, or the next one, return."""
        self._is_woken = True
        if self._bell is not None:
            self._bell.ring()

    async def close(self) -> None:
        """Take no more calls. A receive that waits returns []; the queue and its messages stay."""
        self._is_open = False
        if self._bell is not None:
            self._bell.ring()

    async def _claim_within(self, limit: int, wait: float) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        while self._is_open and not self._is_woken:
            remaining = end - loop.time()
            if remaining <= 0:
                break
            bell = self._bell = Bell()
            try:
                await bell.wait(min(self._queue.watch(bell), remaining))
            finally:
                self._bell = None
                self._queue.unwatch(bell)
            deliveries = self._queue.claim(limit, self.lease) if self._is_open else []
            if deliveries:
                return deliveries
        return []

    def _check_open(self) -> None:
        if not self._is_open:
            raise SourceClosed(f"memory queue {self._queue.name!r} is not open: call open() first")
