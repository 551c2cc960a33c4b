"""How a receive waits, and what ends its wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from qbridge.source import Delivery, QueueSource, Settled
from qbridge.testing.conformance.base import TOLERANCE, ConformanceBase, needs

__all__ = ["WaitingRules"]

_WAIT = 1.0  # seconds that a receive of an empty queue waits


class WaitingRules(ConformanceBase, reads="QueueSource.receive and QueueSource.wake", anchor="waiting"):
    """Rules of the wait of `receive`, and of `wake`."""

    async def test_an_empty_queue_is_waited_for_and_not_longer(self) -> None:
        """`receive` returns [] after `wait` seconds of nothing: not before, and only a little later."""
        source = await self.open_source()
        began = time.monotonic()

        received = await self.promptly(
            source.receive(1, _WAIT), f"receive(wait={_WAIT:g}) of an empty queue", after=_WAIT
        )
        waited = time.monotonic() - began

        assert [] == list(received)
        assert waited >= _WAIT - TOLERANCE, f"receive(wait={_WAIT:g}) returned [] after {waited:.3f} s"

    async def test_a_wait_of_zero_looks_once(self) -> None:
        """`receive` with `wait=0` returns at once, with what is there or with nothing."""
        source = await self.open_source()

        nothing = await self.promptly(source.receive(1, 0), "receive(wait=0)")
        await source.send([self.message()])
        something = await self.promptly(source.receive(1, 0), "receive(wait=0)")

        assert [0, 1] == [len(nothing), len(something)]

    async def test_waiting_keeps_no_processor_busy(self) -> None:
        """A receive that waits sleeps: it doesn't spin."""
        source = await self.open_source()
        used = time.process_time()

        await source.receive(1, _WAIT)
        used = time.process_time() - used

        # Far more than looks take, and less than a busy machine leaves to one that spins.
        assert used < _WAIT / 4, f"waiting for {_WAIT:g} s took {used:.2f} s of processor time"

    async def test_a_send_ends_the_wait_of_another_source(self) -> None:
        """A waiting `receive` returns as soon as a message is there, whoever sent it; it fills no batch."""
        producer = await self.open_source()
        source = await self.open_source()
        receiving = await self._receive_that_waits(source, limit=10)

        await producer.send([self.message(b"wake up")])
        received = await self.promptly(receiving, "the delivery of a message to a receive that waits")

        assert [b"wake up"] == [delivery.body for delivery in received]

    async def test_a_release_ends_the_wait_of_another_source(self) -> None:
        """A waiting `receive` returns as soon as a message comes back."""
        other = await self.open_source()
        source = await self.open_source()
        await other.send([self.message(b"back again")])
        [delivery] = await self.claim(other, 1)
        receiving = await self._receive_that_waits(source)

        await other.settle([delivery.release()])
        received = await self.promptly(receiving, "the delivery of a released message to a receive that waits")

        assert [b"back again"] == [delivery.body for delivery in received]

    @needs(dead_letters=True)
    async def test_a_redrive_ends_the_wait_of_another_source(self) -> None:
        """A waiting `receive` returns as soon as a dead letter is made ready again."""
        other = await self.open_source()
        source = await self.open_source()
        await other.send([self.message(b"alive again")])
        [delivery] = await self.claim(other, 1)
        await other.settle([delivery.dead_letter("rejected")])
        receiving = await self._receive_that_waits(source)

        await other.redrive()
        received = await self.promptly(receiving, "the delivery of a redriven message to a receive that waits")

        assert [b"alive again"] == [delivery.body for delivery in received]

    @needs(delay=True)
    async def test_a_delay_ends_the_wait(self) -> None:
        """A waiting `receive` returns as soon as a delayed message is due."""
        producer = await self.open_source()
        source = await self.open_source()
        receiving = await self._receive_that_waits(source)

        await producer.send([self.message(b"due", delay=self.delay)])
        await self.pass_time(self.delay)
        received = await self.promptly(receiving, "the delivery of a due message to a receive that waits")

        assert [b"due"] == [delivery.body for delivery in received]

    async def test_other_calls_go_on_while_a_receive_waits(self) -> None:
        """`send`, `settle`, `keep_alive` and `stats` overlap with a waiting `receive` of the same source."""
        source = await self.open_source()
        await source.send([self.message(b"first")])
        [first] = await self.claim(source, 1)
        receiving = await self._receive_that_waits(source)

        await self.promptly(source.keep_alive([first]), "keep_alive() while a receive waits")
        await self.promptly(source.settle([first.ack()]), "settle() while a receive waits")
        stats = await self.promptly(source.stats(), "stats() while a receive waits")
        await self.promptly(source.send([self.message(b"second")]), "send() while a receive waits")
        received = await self.promptly(receiving, "the delivery of a message to a receive that waits")

        assert 0 == stats.in_flight
        assert [b"second"] == [delivery.body for delivery in received]

    async def test_overlapping_calls_are_kept_apart(self) -> None:
        """Many `send` and `settle` calls of one source may be on their way at once."""
        source = await self.open_source()
        bodies = [b"%d" % number for number in range(40)]

        await asyncio.gather(*(source.send([self.message(body)]) for body in bodies))
        deliveries = await self.claim(source, 40)
        outcomes = await asyncio.gather(*(source.settle([delivery.ack()]) for delivery in deliveries))

        assert sorted(bodies) == sorted(delivery.body for delivery in deliveries)
        assert [[Settled.DONE]] * 40 == [list(outcome) for outcome in outcomes]

    async def test_wake_ends_a_waiting_receive(self) -> None:
        """After `wake()` a waiting `receive` returns soon, with [] if nothing is there."""
        source = await self.open_source()
        receiving = await self._receive_that_waits(source)

        source.wake()
        received = await self.promptly(receiving, "a receive that was woken")

        assert [] == list(received)

    async def test_wake_is_remembered_for_the_next_receive(self) -> None:
        """A `wake()` while no `receive` runs ends the next one, and only that one."""
        source = await self.open_source()

        source.wake()
        first = await self.promptly(source.receive(1, self.patience * 4), "the receive after wake()")
        began = time.monotonic()
        second = await source.receive(1, _WAIT)
        waited = time.monotonic() - began

        assert ([], []) == (list(first), list(second))
        assert waited >= _WAIT - TOLERANCE, f"the second receive after one wake() returned after {waited:.3f} s"

    async def test_wake_hides_no_message(self) -> None:
        """Messages that are there when a receive is woken are delivered by it or by the next one."""
        source = await self.open_source()
        await source.send([self.message(b"there")])

        source.wake()
        received = await self.claim(source, 1)

        assert [b"there"] == [delivery.body for delivery in received]

    async def _receive_that_waits(self, source: QueueSource, limit: int = 1) -> asyncio.Task[Sequence[Delivery]]:
        receiving = asyncio.ensure_future(source.receive(limit, self.patience * 4))
        await asyncio.wait([receiving], timeout=0.1)
        assert not receiving.done(), "receive returned though nothing was there and its wait was not over"
        return receiving
