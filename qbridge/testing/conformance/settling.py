"""The four ways to end a delivery."""

from __future__ import annotations

from qbridge.source import Settled
from qbridge.testing.conformance.base import TOLERANCE, ConformanceBase, needs

__all__ = ["SettlingRules"]


class SettlingRules(ConformanceBase, reads="QueueSource.settle", anchor="settling"):
    """Rules of `settle`."""

    async def test_ack_removes_the_message(self) -> None:
        """A message that was acknowledged is never delivered again."""
        source = await self.open_source(self.short_lease)
        await source.send([self.message()])
        [delivery] = await self.claim(source, 1)

        assert [Settled.DONE] == list(await source.settle([delivery.ack()]))

        await self.lose(source)
        assert [] == list(await source.receive(1, 0)), "an acknowledged message was delivered again"
        stats = await source.stats()
        assert (0, 0, 0) == (stats.ready, stats.delayed, stats.in_flight)

    async def test_one_batch_settles_in_several_ways(self) -> None:
        """Each settlement of a batch is carried out in its own way."""
        source = await self.open_source()
        await source.send([self.message(body) for body in (b"ack", b"retry", b"release", b"ack too")])
        deliveries = {delivery.body: delivery for delivery in await self.claim(source, 4)}

        outcomes = await source.settle(
            [
                deliveries[b"ack"].ack(),
                deliveries[b"retry"].retry(0),
                deliveries[b"release"].release(),
                deliveries[b"ack too"].ack(),
            ]
        )
        returned = await self.claim(source, 2)

        assert [Settled.DONE] * 4 == list(outcomes)
        assert {b"retry", b"release"} == {delivery.body for delivery in returned}
        assert [] == list(await source.receive(1, 0)), "more came back than was sent back"

    async def test_settling_twice_is_settling_once(self) -> None:
        """A repeated settlement is DONE or LOST, never an error, and changes nothing more."""
        source = await self.open_source()
        await source.send([self.message() for _ in range(3)])
        first, second, third = await self.claim(source, 3)
        settlements = [first.ack(), second.retry(0), third.release()]

        once = await source.settle(settlements)
        twice = await source.settle(settlements)

        assert [Settled.DONE] * 3 == list(once)
        assert {Settled.DONE, Settled.LOST} >= set(twice)
        assert 2 == (await source.stats()).ready
        assert 2 == len(await self.claim(source, 2))
        assert [] == list(await source.receive(1, 0)), "settling twice made a copy"

    async def test_release_puts_a_message_back_untried(self) -> None:
        """A released message can be claimed at once; its attempt does not count."""
        source = await self.open_source()
        await source.send([self.message(b"later")])
        [delivery] = await self.claim(source, 1)

        await source.settle([delivery.release()])
        [returned] = await self.claim(source, 1)

        assert (b"later", 1, 0) == (returned.body, returned.attempt, returned.crashes)

    @needs(ordered=True)
    async def test_released_messages_come_first_in_their_old_order(self) -> None:
        """Released messages go back to the front, before what was never claimed and as they stood."""
        source = await self.open_source()
        await source.send([self.message(b"%d" % number) for number in range(6)])
        deliveries = await self.claim(source, 4)

        await source.settle([delivery.release() for delivery in deliveries])
        received = [delivery.body for delivery in await self.claim(source, 6)]

        assert [b"0", b"1", b"2", b"3", b"4", b"5"] == received

    async def test_retry_brings_a_message_back(self) -> None:
        """A retried message comes back with the same bytes and id, and its attempt counts."""
        source = await self.open_source()
        await source.send([self.message(b"\x00\xff again")])
        [delivery] = await self.claim(source, 1)

        await source.settle([delivery.retry(0, "it failed")])
        [returned] = await self.claim(source, 1)

        assert (b"\x00\xff again", delivery.message_id) == (returned.body, returned.message_id)
        if self.capabilities.attempts:
            assert (2, 0) == (returned.attempt, returned.crashes)

    @needs(headers=True)
    async def test_headers_come_back_too(self) -> None:
        """A retried or released message keeps its headers."""
        source = await self.open_source()
        await source.send([self.message(headers={"trace": "00-ab"})])

        [delivery] = await self.claim(source, 1)
        await source.settle([delivery.retry(0)])
        [retried] = await self.claim(source, 1)
        await source.settle([retried.release()])
        [released] = await self.claim(source, 1)

        assert [{"trace": "00-ab"}] * 2 == [dict(retried.headers), dict(released.headers)]

    @needs(delay=True)
    async def test_a_retry_is_not_early(self) -> None:
        """A message retried with a delay comes back when it is over, not before, and holds nothing up."""
        source = await self.open_source()
        await source.send([self.message(b"retried")])
        [delivery] = await self.claim(source, 1)
        retried_at = self.time()

        await source.settle([delivery.retry(self.delay)])
        await source.send([self.message(b"other")])
        other = await self.claim(source, 1)
        returned = await self.claim(source, 1)
        waited = self.time() - retried_at

        assert [b"other", b"retried"] == [delivery.body for delivery in [*other, *returned]]
        assert waited >= self.delay - TOLERANCE, f"came back after {waited:.3f} s instead of {self.delay:g} s"

    @needs(attempts=True)
    async def test_attempts_add_up_over_retries_and_releases(self) -> None:
        """The attempt is one more than the starts of a handler before: retries count, releases don't."""
        source = await self.open_source()
        await source.send([self.message()])
        attempts = []

        for number in range(6):
            [delivery] = await self.claim(source, 1)
            attempts.append(delivery.attempt)
            await source.settle([delivery.release() if number % 2 else delivery.retry(0)])

        assert [1, 2, 2, 3, 3, 4] == attempts
