"""What brings unsettled deliveries back, and what protects them and their new owners meanwhile."""

from __future__ import annotations

from qbridge.source import Settled
from qbridge.testing.conformance.base import TOLERANCE, ConformanceBase, needs

__all__ = ["LeasingRules"]


class LeasingRules(ConformanceBase, reads="QueueSource.keep_alive and QueueSource.settle", anchor="leasing"):
    """Rules of leases."""

    async def test_an_unsettled_delivery_comes_back(self) -> None:
        """A delivery that its worker neither settles nor keeps alive goes to another worker, with the same bytes."""
        worker, other = await self.open_source(self.short_lease), await self.open_source()
        await worker.send([self.message(b"\xff\x00 the same")])
        [lost] = await self.claim(worker, 1)

        await self.lose(worker)
        [returned] = await self.claim(other, 1)

        assert (b"\xff\x00 the same", lost.message_id) == (returned.body, returned.message_id)
        assert lost.receipt != returned.receipt, "two deliveries have one receipt: a late settlement hits the later"

    @needs(lease="timeout")
    async def test_a_delivery_is_nobody_elses_during_its_lease(self) -> None:
        """A claimed message is not delivered again before its lease has run out."""
        worker, other = await self.open_source(self.short_lease), await self.open_source()
        await worker.send([self.message()])
        claimed_at = self.time()
        await self.claim(worker, 1)

        await self.claim(other, 1)
        waited = self.time() - claimed_at

        assert waited >= self.short_lease - TOLERANCE, f"delivered again {waited:.3f} s after the claim"

    @needs(attempts=True)
    async def test_each_crash_is_counted(self) -> None:
        """A delivery that comes back has `attempt` and `crashes` raised by one, each time."""
        worker = await self.open_source(self.short_lease)
        await worker.send([self.message()])
        counts = []

        for _ in range(3):
            [delivery] = await self.claim(worker, 1)
            counts.append((delivery.attempt, delivery.crashes))
            await self.lose(worker)

        assert [(1, 0), (2, 1), (3, 2)] == counts

    @needs(lease="timeout")
    async def test_keep_alive_holds_a_delivery(self) -> None:
        """A delivery that is kept alive stays its worker's beyond the lease, and can be settled then."""
        worker, other = await self.open_source(self.short_lease), await self.open_source()
        await worker.send([self.message()])
        [delivery] = await self.claim(worker, 1)

        for _ in range(8):
            await self.pass_time(self.short_lease / 4)
            assert [] == list(await worker.keep_alive([delivery])), "keep_alive reports a delivery in time as lost"
            assert [] == list(await other.receive(1, 0)), "a delivery that is kept alive was delivered to another"

        assert [Settled.DONE] == list(await worker.settle([delivery.ack()]))

    async def test_keep_alive_names_what_is_lost(self) -> None:
        """`keep_alive` returns just those deliveries that are no longer its worker's."""
        worker, other = await self.open_source(self.short_lease), await self.open_source()
        await worker.send([self.message()])
        [lost] = await self.claim(worker, 1)
        await self.lose(worker)
        [taken] = await self.claim(other, 1)
        await other.send([self.message()])
        [held] = await self.claim(worker, 1)

        assert [lost] == list(await worker.keep_alive([lost, held]))
        assert [] == list(await other.keep_alive([taken])), "a late keep_alive took a delivery from its new owner"

    async def test_a_late_settlement_is_lost_and_changes_nothing(self) -> None:
        """Settling what is another worker's by then is LOST, in all four ways; the other keeps it."""
        worker, other = await self.open_source(self.short_lease), await self.open_source()
        await worker.send([self.message() for _ in range(4)])
        late = await self.claim(worker, 4)
        await self.lose(worker)
        taken = await self.claim(other, 4)

        outcomes = await worker.settle(
            [late[0].ack(), late[1].retry(0, "late"), late[2].release(), late[3].dead_letter("rejected", "late")]
        )

        assert [Settled.LOST] * 4 == list(outcomes)
        assert [] == list(await worker.receive(4, 0)), "a late settlement brought messages back that are taken"
        assert [] == list(await other.keep_alive(taken)), "a late settlement took deliveries from their new owner"
        assert [Settled.DONE] * 4 == list(await other.settle([delivery.ack() for delivery in taken]))
        stats = await other.stats()
        assert (0, 0, 0, 0) == (stats.ready, stats.delayed, stats.in_flight, stats.dead)

    async def test_a_batch_with_late_settlements_ends_the_others(self) -> None:
        """The outcomes of `settle` stand in the order of the settlements; one that is LOST spoils no other."""
        worker, other = await self.open_source(self.short_lease), await self.open_source()
        await worker.send([self.message()])
        [late] = await self.claim(worker, 1)
        await self.lose(worker)
        [taken] = await self.claim(other, 1)
        await other.send([self.message(), self.message()])
        [first, last] = await self.claim(worker, 2)

        outcomes = await worker.settle([first.ack(), late.ack(), last.ack()])

        assert [Settled.DONE, Settled.LOST, Settled.DONE] == list(outcomes)
        assert [Settled.DONE] == list(await other.settle([taken.ack()]))

    @needs("kill_consumer", shared=True)
    async def test_a_killed_consumer_loses_nothing(self) -> None:
        """What a worker had claimed when it was killed comes back, its attempts and crashes counted."""
        source = await self.open_source()
        bodies = [b"%d" % number for number in range(10)]
        await source.send([self.message(body) for body in bodies])

        await self.kill_consumer(len(bodies))
        returned = await self.claim(source, len(bodies))

        assert sorted(bodies) == sorted(delivery.body for delivery in returned)
        if self.capabilities.attempts:
            assert {(2, 1)} == {(delivery.attempt, delivery.crashes) for delivery in returned}
