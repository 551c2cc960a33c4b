"""What becomes of messages that are not tried again by themselves."""

from __future__ import annotations

import time

from qbridge.source import MAX_ERRORS_KEPT, DeadLetter, Delivery, QueueSource, Settled
from qbridge.testing.conformance.base import ConformanceBase, needs

__all__ = ["DeadLetterRules"]


class DeadLetterRules(
    ConformanceBase, reads="DeadLetter, QueueSource.dead_letters, .redrive and .purge", anchor="dead-letters"
):
    """Rules of dead letters."""

    @needs(dead_letters=True)
    async def test_a_dead_letter_is_kept_as_it_was(self) -> None:
        """A dead letter keeps the original bytes, with the reason, the attempts and when it died."""
        source = await self.open_source(self.short_lease)
        await source.send([self.message(b"\xff\x00 not JSON")])
        [delivery] = await self.claim(source, 1)

        assert [Settled.DONE] == list(await source.settle([delivery.dead_letter("undecodable", "bad bytes")]))
        dead = await self._only_dead_letter(source)

        assert (b"\xff\x00 not JSON", "undecodable", 1) == (dead.body, dead.reason, dead.attempts)
        assert ["bad bytes"] == list(dead.errors)
        assert abs(time.time() - dead.died_at) < 60, f"died_at is {dead.died_at}, not seconds since the epoch"
        await self.lose(source)
        assert [] == list(await source.receive(1, 0)), "a dead letter was delivered"

    @needs(dead_letters=True, headers=True)
    async def test_a_dead_letter_keeps_its_headers(self) -> None:
        """A dead letter has the headers of its message, and has them still when it is redriven."""
        source = await self.open_source()
        await source.send([self.message(headers={"trace": "00-ab"})])
        await self._bury(source, await self.claim(source, 1))

        dead = await self._only_dead_letter(source)
        await source.redrive()
        [returned] = await self.claim(source, 1)

        assert [{"trace": "00-ab"}] * 2 == [dict(dead.headers), dict(returned.headers)]

    @needs(dead_letters=True)
    async def test_the_newest_errors_are_kept(self) -> None:
        """The error history is kept over retries, oldest first, the newest `MAX_ERRORS_KEPT` of it."""
        source = await self.open_source()
        await source.send([self.message()])
        errors = [f"error {number} ä" for number in range(MAX_ERRORS_KEPT + 3)]

        for error in errors[:-1]:
            [delivery] = await self.claim(source, 1)
            await source.settle([delivery.retry(0, error)])
        [delivery] = await self.claim(source, 1)
        await source.settle([delivery.dead_letter("exhausted", errors[-1])])
        dead = await self._only_dead_letter(source)

        assert errors[-MAX_ERRORS_KEPT:] == list(dead.errors)

    @needs(dead_letters=True)
    async def test_dead_letters_are_listed_in_pages(self) -> None:
        """`dead_letters` lists in the order of dying; `limit` and `after` page, `ids` picks those that exist."""
        source = await self.open_source()
        bodies = [b"%d" % number for number in range(5)]
        for body in bodies:
            await source.send([self.message(body)])
            await self._bury(source, await self.claim(source, 1))

        first = await source.dead_letters(limit=2)
        rest = await source.dead_letters(limit=10, after=first[-1].message_id)
        picked = await source.dead_letters(ids=[rest[1].message_id, "unknown", first[0].message_id])
        past_the_end = await source.dead_letters(after=rest[-1].message_id)

        assert bodies[:2] == [dead.body for dead in first]
        assert bodies[2:] == [dead.body for dead in rest]
        assert {bodies[0], bodies[3]} == {dead.body for dead in picked}
        assert [] == list(past_the_end)

    @needs(dead_letters=True)
    async def test_redrive_makes_dead_letters_new(self) -> None:
        """A redriven message is claimed again with the same bytes, its attempts and crashes reset."""
        source = await self.open_source(self.short_lease)
        await source.send([self.message(b"once more \xff")])
        await self.claim(source, 1)
        await self.lose(source)
        await self._bury(source, await self.claim(source, 1))

        assert 1 == await source.redrive()
        returned = await self.claim(source, 1)

        assert [(b"once more \xff", 1, 0)] == [(one.body, one.attempt, one.crashes) for one in returned]
        assert [] == list(await source.dead_letters())

    @needs(dead_letters=True)
    async def test_redrive_takes_the_named_ones(self) -> None:
        """`redrive(ids)` takes just those, skips unknown ids and tells how many it took."""
        source = await self.open_source()
        chosen = await self._three_dead(source)

        assert 1 == await source.redrive([chosen, "unknown"])

        stats = await source.stats()
        assert (1, 2) == (stats.ready, stats.dead)
        assert [b"1"] == [delivery.body for delivery in await self.claim(source, 1)]

    @needs(dead_letters=True)
    async def test_purge_deletes_dead_letters(self) -> None:
        """`purge(ids)` deletes just those, `purge()` all dead letters and nothing else; both tell how many."""
        source = await self.open_source()
        chosen = await self._three_dead(source)
        await source.send([self.message(b"alive")])

        assert 1 == await source.purge([chosen, "unknown"])
        assert [b"0", b"2"] == [dead.body for dead in await source.dead_letters()]
        assert 2 == await source.purge()

        assert [] == list(await source.dead_letters())
        assert [b"alive"] == [delivery.body for delivery in await self.claim_at_most(source, 2, within=0.2)]

    async def _only_dead_letter(self, source: QueueSource) -> DeadLetter:
        dead = await source.dead_letters()
        assert len(dead) == 1, f"{len(dead)} dead letters are kept instead of 1"
        return dead[0]

    async def _three_dead(self, source: QueueSource) -> str:
        """Make dead letters of b"0", b"1" and b"2"; return the id of the second."""
        for number in range(3):
            await source.send([self.message(b"%d" % number)])
            await self._bury(source, await self.claim(source, 1))
        return (await source.dead_letters())[1].message_id

    async def _bury(self, source: QueueSource, deliveries: list[Delivery]) -> None:
        await source.settle([delivery.dead_letter("rejected", "for the test") for delivery in deliveries])
