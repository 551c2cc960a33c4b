"""What happens when the broker goes away, and comes back."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from qbridge.errors import SourceUnavailable
from qbridge.source import Settled
from qbridge.testing.conformance.base import ConformanceBase, needs

__all__ = ["OutageRules"]


class OutageRules(ConformanceBase, reads="Errors, and QueueSource.open,", anchor="outages"):
    """Rules of lost connections and restarts."""

    @needs(durable=True)
    async def test_messages_outlive_the_last_source(self) -> None:
        """What was accepted is there after every source was closed."""
        producer = await self.open_source()
        await producer.send([self.message(b"%d" % number) for number in range(3)])
        await producer.close()

        received = await self.claim(await self.open_source(), 3)

        assert [b"0", b"1", b"2"] == sorted(delivery.body for delivery in received)

    @needs("restart", durable=True)
    async def test_a_restart_of_the_broker_loses_nothing(self) -> None:
        """Messages, ready, delayed, in flight and dead, survive a restart of the broker, with their attempts."""
        source = await self.open_source(self.short_lease)
        await source.send([self.message(body) for body in (b"in flight", b"dead", b"ready")])
        deliveries = {delivery.body: delivery for delivery in await self.claim(source, 3)}
        settlements = [deliveries[b"ready"].retry(0, "first try")]
        if self.capabilities.dead_letters:
            settlements.append(deliveries[b"dead"].dead_letter("rejected"))
        else:
            settlements.append(deliveries[b"dead"].ack())
        await source.settle(settlements)
        if self.capabilities.delay:
            await source.send([self.message(b"delayed", delay=self.delay)])
        expected = {b"in flight", b"ready"} | ({b"delayed"} if self.capabilities.delay else set())

        await self.restart()
        await source.close()
        await source.open()
        returned: dict[bytes, tuple[int, int]] = {}
        while returned.keys() < expected:
            [delivery] = await self.claim(source, 1)
            returned[delivery.body] = (delivery.attempt, delivery.crashes)
            await source.settle([delivery.ack()])

        assert expected == set(returned)
        if self.capabilities.attempts:
            assert {b"ready": (2, 0), b"in flight": (2, 1)} == {
                body: counts for body, counts in returned.items() if body != b"delayed"
            }
        if self.capabilities.dead_letters:
            assert [b"dead"] == [dead.body for dead in await source.dead_letters()]

    @needs("cut")
    async def test_a_lost_connection_is_reported(self) -> None:
        """A waiting `receive` whose connection breaks raises SourceUnavailable soon; it doesn't return [] or hang."""
        source = await self.open_source()
        receiving = asyncio.ensure_future(source.receive(1, self.patience * 4))
        await asyncio.wait([receiving], timeout=0.1)

        await self.cut(source)

        with pytest.raises(SourceUnavailable):
            await self.promptly(receiving, "a receive whose connection was cut")

    @needs("cut")
    async def test_nothing_is_lost_with_a_connection(self) -> None:
        """After a lost connection `close` and `open` work, and every message is settled or comes back."""
        source = await self.open_source(self.short_lease)
        await source.send([self.message(b"in flight"), self.message(b"ready")])
        [delivery] = await self.claim(source, 1)

        await self.cut(source)
        with contextlib.suppress(SourceUnavailable):
            await self.promptly(source.stats(), "a call after the connection was cut")
        await self.promptly(source.close(), "close() after the connection was cut")
        await self.promptly(source.open(), "open() after the connection was cut")
        [outcome] = await source.settle([delivery.ack()])
        expected = {b"in flight", b"ready"} - ({delivery.body} if outcome is Settled.DONE else set())
        received = await self.claim(await self.open_source(), len(expected))

        assert expected == {one.body for one in received}

    @needs("new_unreachable_source")
    async def test_an_unreachable_broker_is_unavailable(self) -> None:
        """`open` raises SourceUnavailable, in bounded time, when the broker can't be reached; `close` works then."""
        source = self.new_unreachable_source()

        with pytest.raises(SourceUnavailable):
            await self.promptly(source.open(), "open() of an unreachable broker")
        await self.promptly(source.close(), "close() after a failed open()")
