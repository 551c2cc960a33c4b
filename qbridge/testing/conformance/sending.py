"""What a message is when it arrives."""

from __future__ import annotations

import time

import pytest

from qbridge.testing.conformance.base import TOLERANCE, ConformanceBase, needs

__all__ = ["SendingRules"]

_BODIES = {
    "empty": b"",
    "NUL": b"\x00",
    "not UTF-8": b"\xff\xfe\x80",
    "every byte": bytes(range(256)),
    "line ends": b"\r\n one \n two \r\n",
    "JSON": b'{"task": "x", "args": [1]}',
    "1 MiB": bytes(range(256)) * 4096,
}


class SendingRules(ConformanceBase, reads="QueueSource.send", anchor="sending"):
    """Rules of `send`."""

    @pytest.mark.parametrize("kind", list(_BODIES))
    async def test_a_body_arrives_byte_for_byte(self, kind: str) -> None:
        """A delivery's body is exactly the bytes that were sent, whatever they are."""
        source = await self.open_source()
        await source.send([self.message(_BODIES[kind])])

        [delivery] = await self.claim(source, 1)

        assert isinstance(delivery.body, bytes), f"body is a {type(delivery.body).__name__}, not bytes"
        assert _BODIES[kind] == delivery.body, f"body changed: {kind}"

    @needs(headers=True)
    async def test_headers_arrive(self) -> None:
        """Headers travel beside the body, unchanged."""
        headers = {"trace": "00-ab", "name": "Zoë → 世界", "empty": ""}
        source = await self.open_source()
        await source.send([self.message(b"with", headers=headers), self.message(b"without")])

        deliveries = await self.claim(source, 2)

        assert {b"with": headers, b"without": {}} == {delivery.body: dict(delivery.headers) for delivery in deliveries}

    async def test_a_delivery_names_its_message(self) -> None:
        """Deliveries of one message share its id and differ in their receipts, which are hashable."""
        source = await self.open_source()
        await source.send([self.message(), self.message()])

        first = await self.claim(source, 2)
        await source.settle([delivery.retry(0) for delivery in first])
        second = await self.claim(source, 2)

        ids = {delivery.message_id for delivery in first}
        assert len(ids) == 2, f"two messages have the ids {ids}"
        assert ids == {delivery.message_id for delivery in second}, "a redelivery has another message_id"
        receipts = {delivery.receipt for delivery in [*first, *second]}
        assert len(receipts) == 4, f"four deliveries have {len(receipts)} different receipts"

    async def test_the_time_of_arrival_is_told_in_seconds_since_the_epoch(self) -> None:
        """`enqueued_at` is when the broker got the message, or None."""
        source = await self.open_source()
        await source.send([self.message()])

        [delivery] = await self.claim(source, 1)

        if delivery.enqueued_at is not None:
            assert abs(time.time() - delivery.enqueued_at) < 60, f"enqueued_at is {delivery.enqueued_at}"

    @needs(ordered=True)
    async def test_messages_are_claimed_in_the_order_of_sending(self) -> None:
        """First in, first out: within one send and from send to send."""
        bodies = [b"%d" % number for number in range(30)]
        source = await self.open_source()
        for start in range(0, 30, 10):
            await source.send([self.message(body) for body in bodies[start : start + 10]])

        received = [delivery.body for _ in range(5) for delivery in await self.claim(source, 6)]

        assert bodies == received

    @needs(delay=True)
    async def test_a_delayed_message_is_not_early(self) -> None:
        """A message sent with a delay can't be claimed before it is over, and can be then."""
        source = await self.open_source()
        sent_at = self.time()
        await source.send([self.message(delay=self.delay)])

        [delivery] = await self.claim(source, 1)
        waited = self.time() - sent_at

        assert waited >= self.delay - TOLERANCE, f"delivered after {waited:.3f} s instead of {self.delay:g} s"
        assert 1 == delivery.attempt

    @needs(delay=True)
    async def test_a_delayed_message_holds_nothing_up(self) -> None:
        """Messages sent after a delayed one are claimed before it."""
        source = await self.open_source()
        await source.send([self.message(b"late", delay=self.delay), self.message(b"now")])

        first = await self.claim(source, 1)
        second = await self.claim(source, 1)

        assert [b"now", b"late"] == [delivery.body for delivery in [*first, *second]]

    async def test_empty_batches_do_nothing(self) -> None:
        """`send`, `settle` and `keep_alive` take empty sequences."""
        source = await self.open_source()

        await source.send([])

        assert [] == list(await source.settle([]))
        assert [] == list(await source.keep_alive([]))
        assert [] == list(await source.receive(1, 0))
