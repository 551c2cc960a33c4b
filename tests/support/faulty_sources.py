"""Scripted sources that break one rule of the contract, or live by another kind of lease."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from qbridge import Delivery, Settled, Settlement
from qbridge_memory import ManualClock
from qbridge_memory.source import CAPABILITIES
from tests.support.scripted_source import ScriptedSource
from tests.support.waiting import Latch

__all__ = ["DeafSource", "HastySource", "StubbornSource", "TiedSource"]


class DeafSource(ScriptedSource):
    """It hears of no message until it is opened again, though its connection looks alive."""

    hears_from_opening = 2

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Find nothing, in time."""
        if self.calls["open"] >= self.hears_from_opening:
            return await super().receive(limit, wait)
        self.calls["receive"] += 1
        await asyncio.sleep(wait)
        return []


class HastySource(ScriptedSource):
    """It does not wait for messages: it returns at once when there are none."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Look once."""
        return await super().receive(limit, 0.0)


class StubbornSource(ScriptedSource):
    """The first call of one method ignores that it is cancelled, until it is let go; then it does its work."""

    method = "receive"

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)  # type: ignore[arg-type]  # handed on as they came
        self.let_go = Latch()
        self._is_stuck = False
        #: What the call returned that was let go.
        self.late_result: object = None

    async def open(self) -> None:
        """Open."""
        await self._stick("open")
        await super().open()

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim."""
        is_late = await self._stick("receive")
        deliveries = await super().receive(limit, wait)
        if is_late:
            self.late_result = deliveries
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Settle."""
        is_late = await self._stick("settle")
        outcomes = await super().settle(settlements)
        if is_late:
            self.late_result = outcomes
        return outcomes

    async def close(self) -> None:
        """Close."""
        await self._stick("close")
        await super().close()

    async def _stick(self, method: str) -> bool:
        if method != self.method or self._is_stuck:
            return False
        self._is_stuck = True
        self._changed()
        while not self.let_go.is_set:
            try:
                await self.let_go.wait(1e6)
            except asyncio.CancelledError:
                continue
        return True


class TiedSource(ScriptedSource):
    """What is in flight is given back when the connection ends, and counted as a crash, as RabbitMQ does."""

    capabilities = replace(CAPABILITIES, lease="connection")
    clock: ManualClock  # the broker's; set by the test

    async def close(self) -> None:
        """Close, and give back all that was claimed."""
        await super().close()
        self.clock.advance(self.lease + 1)
        self._queue.stats()  # whatever is due comes back by that
