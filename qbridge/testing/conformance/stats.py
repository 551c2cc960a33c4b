"""What a queue tells about itself."""

from __future__ import annotations

from qbridge.testing.conformance.base import TOLERANCE, ConformanceBase, needs

__all__ = ["StatsRules"]


class StatsRules(ConformanceBase, reads="QueueStats", anchor="statistics"):
    """Rules of `stats`."""

    async def test_stats_count_what_is_ready_and_in_flight(self) -> None:
        """`ready` and `in_flight` count the messages of all workers, whoever asks."""
        worker, other = await self.open_source(), await self.open_source()
        await worker.send([self.message() for _ in range(5)])
        await self.claim(worker, 2)

        stats = await other.stats()
        own = await worker.stats()

        assert (3, 0, 0) == (stats.ready, stats.delayed, stats.dead)
        assert 2 == own.in_flight
        assert (0 if "in_flight" in self.untold else 2) == stats.in_flight

    @needs(delay=True)
    async def test_stats_count_what_is_delayed(self) -> None:
        """`delayed` counts messages that wait for their time, whether sent or retried with a delay."""
        source = await self.open_source()
        await source.send([self.message(), self.message(delay=60)])
        [delivery] = await self.claim(source, 1)
        await source.settle([delivery.retry(60)])

        stats = await source.stats()

        assert (0, 2, 0, 0) == (stats.ready, stats.delayed, stats.in_flight, stats.dead)

    @needs(dead_letters=True)
    async def test_stats_count_what_is_dead(self) -> None:
        """`dead` counts dead letters."""
        source = await self.open_source()
        await source.send([self.message() for _ in range(3)])
        deliveries = await self.claim(source, 2)
        await source.settle([delivery.dead_letter("rejected") for delivery in deliveries])

        stats = await source.stats()

        assert (1, 0, 0, 2) == (stats.ready, stats.delayed, stats.in_flight, stats.dead)

    async def test_the_age_of_the_next_message_is_told(self) -> None:
        """`oldest_age` is how long the next ready message has waited; without times, `oldest_body` is its body."""
        source = await self.open_source()
        empty = await source.stats()
        await source.send([self.message(b"oldest")])
        await self.pass_time(0.5)
        await source.send([self.message(b"newer")])

        stats = await source.stats()

        assert empty.oldest_age in {0, None}, f"an empty queue has oldest_age {empty.oldest_age}"
        assert empty.oldest_body is None
        if "oldest_age" in self.untold:
            assert (None, None) == (stats.oldest_age, stats.oldest_body)
        elif stats.oldest_age is None:
            assert b"oldest" == stats.oldest_body
        else:
            assert 0.5 - TOLERANCE <= stats.oldest_age <= 0.5 + self.patience

    async def test_opening_claims_nothing(self) -> None:
        """A producer that opens the queue and never receives holds nothing back from workers."""
        worker = await self.open_source()
        await worker.send([self.message() for _ in range(3)])

        await self.open_source()

        stats = await worker.stats()
        assert (3, 0) == (stats.ready, stats.in_flight)
