"""How messages are handed over: how many, to whom, and what a cancelled call does to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from qbridge.errors import SourceUnavailable
from qbridge.source import Delivery, QueueSource, Settled
from qbridge.testing.conformance.base import ConformanceBase

__all__ = ["ClaimingRules"]

_STORM = 60  # cancelled receives


class ClaimingRules(ConformanceBase, reads="QueueSource.receive", anchor="claiming"):
    """Rules of `receive`."""

    async def test_the_limit_is_kept(self) -> None:
        """`receive` never returns more than `limit`."""
        source = await self.open_source()
        await source.send([self.message() for _ in range(20)])

        for limit in (1, 3, 7):
            received = await source.receive(limit, self.patience)

            assert 1 <= len(received) <= limit, f"receive(limit={limit}) returned {len(received)} deliveries"

    async def test_a_batch_of_thousands_goes_through(self) -> None:
        """One call sends, one settles 9000 messages; none is left out."""
        bodies = [b"%d" % number for number in range(9000)]
        source = await self.open_source()
        await source.send([self.message(body) for body in bodies])

        deliveries = await self.claim(source, len(bodies))
        await source.settle([delivery.ack() for delivery in deliveries])

        assert Counter(bodies) == Counter(delivery.body for delivery in deliveries)
        stats = await source.stats()
        assert (0, 0) == (stats.ready, stats.in_flight)

    async def test_producers_and_consumers_lose_and_double_nothing(self) -> None:
        """Each message goes to exactly one of several consumers while they live."""
        bodies = [b"%d-%d" % (producer, number) for producer in range(3) for number in range(60)]
        producers = [await self.open_source() for _ in range(3)]
        consumers = [await self.open_source() for _ in range(3)]
        received: list[bytes] = []

        async def produce(source: QueueSource, mine: list[bytes]) -> None:
            for start in range(0, len(mine), 7):
                await source.send([self.message(body) for body in mine[start : start + 7]])

        end = asyncio.get_running_loop().time() + self.patience

        async def consume(source: QueueSource) -> None:
            while len(received) < len(bodies) and asyncio.get_running_loop().time() < end:
                deliveries = await source.receive(5, 0.1)
                received.extend(delivery.body for delivery in deliveries)
                await source.settle([delivery.ack() for delivery in deliveries])

        await asyncio.gather(
            *(produce(source, bodies[place * 60 : place * 60 + 60]) for place, source in enumerate(producers)),
            *(consume(source) for source in consumers),
        )

        assert Counter(bodies) == Counter(received)
        assert [] == list(await consumers[0].receive(1, 0)), "more was delivered than had been sent"

    async def test_cancelled_receives_lose_nothing(self) -> None:
        """What a cancelled `receive` had claimed comes back by itself, while its worker lives on."""
        bodies = [b"%d" % number for number in range(_STORM)]
        producer = await self.open_source()
        source = await self.open_source(self.short_lease)
        done: list[bytes] = []

        for place, body in enumerate(bodies):
            if place % 2:
                await producer.send([self.message(body)])
            receiving = asyncio.create_task(source.receive(1, self.patience))
            if not place % 2:
                await asyncio.sleep(0.005)  # it waits by now
                await producer.send([self.message(body)])
            # Of the cancels some hit a request on its way, some a wait, some a reply that has come.
            for _ in range(place // 2):
                await asyncio.sleep(0)
            receiving.cancel()
            done += await self._outcome(source, receiving)
        end = self.time() + self.short_lease + self.patience
        while len(done) < len(bodies) and self.time() < end:
            done += await self._acked(source, await self.claim_at_most(source, 1, within=self.short_lease * 2))

        assert Counter(bodies) == Counter(done), f"lost: {set(bodies) - set(done)}"

    async def _outcome(self, source: QueueSource, receiving: asyncio.Task[Sequence[Delivery]]) -> list[bytes]:
        """Acknowledge what a cancelled receive returned all the same; return the bodies."""
        await asyncio.wait([receiving], timeout=self.patience)
        assert receiving.done(), "a cancelled receive did not end"
        if receiving.cancelled():
            return []
        try:
            return await self._acked(source, receiving.result())
        except SourceUnavailable:
            # A client library may drop the connection of a cancelled call: the core would reconnect.
            await source.close()
            await source.open()
            return []

    async def _acked(self, source: QueueSource, deliveries: Sequence[Delivery]) -> list[bytes]:
        outcomes = await source.settle([delivery.ack() for delivery in deliveries])
        return [
            delivery.body for delivery, outcome in zip(deliveries, outcomes, strict=True) if outcome == Settled.DONE
        ]
