"""Sources that break the rules of sending, claiming and waiting, one each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from qbridge import Delivery, Outgoing, QueueStats, Settled, Settlement
from tests.conformance.healthy import HealthySource, breaks

BODIES = "test_a_body_arrives_byte_for_byte"


class ChangesBodies(HealthySource):
    """Does something to each body on its way."""

    change: Callable[[bytes], bytes]

    async def send(self, messages: Sequence[Outgoing]) -> None:
        await super().send([replace(message, body=type(self).change(message.body)) for message in messages])


@breaks(BODIES, "line ends")
class StripsBodies(ChangesBodies):
    """Takes bodies for lines."""

    change = bytes.strip


@breaks(BODIES, "not UTF-8")
@breaks(BODIES, "every byte")
class DecodesBodies(ChangesBodies):
    """Takes bodies for text."""

    @staticmethod
    def change(body: bytes) -> bytes:
        return body.decode(errors="replace").encode()


@breaks(BODIES, "NUL")
class EndsBodiesAtNul(ChangesBodies):
    """Takes bodies for strings of C."""

    @staticmethod
    def change(body: bytes) -> bytes:
        return body.split(b"\x00")[0]


@breaks(BODIES, "1 MiB")
class CutsBodies(ChangesBodies):
    """Has a field that is too short."""

    @staticmethod
    def change(body: bytes) -> bytes:
        return body[:65535]


@breaks(BODIES, "JSON")
class ReformatsJson(ChangesBodies):
    """Decodes and encodes what it can."""

    @staticmethod
    def change(body: bytes) -> bytes:
        return body.replace(b": ", b":")


@breaks(BODIES, "empty")
class DropsEmptyBodies(HealthySource):
    """Takes an empty body for no message."""

    async def send(self, messages: Sequence[Outgoing]) -> None:
        await super().send([message for message in messages if message.body])


@breaks("test_headers_arrive")
class DropsHeaders(HealthySource):
    """Carries the body only."""

    async def send(self, messages: Sequence[Outgoing]) -> None:
        await super().send([replace(message, headers={}) for message in messages])


class ChangesDeliveries(HealthySource):
    """Does something to each delivery."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        return [self.changed(delivery) for delivery in await super().receive(limit, wait)]

    def changed(self, delivery: Delivery) -> Delivery:
        raise AssertionError


@breaks("test_a_delivery_names_its_message")
class RenamesMessages(ChangesDeliveries):
    """Takes the number of the delivery for the id of the message."""

    def changed(self, delivery: Delivery) -> Delivery:
        return replace(delivery, message_id=str(delivery.receipt))


@breaks("test_the_time_of_arrival_is_told_in_seconds_since_the_epoch")
class TellsTimeInMilliseconds(ChangesDeliveries):
    """Has another unit."""

    def changed(self, delivery: Delivery) -> Delivery:
        return replace(delivery, enqueued_at=time.time() * 1000)


@breaks("test_messages_are_claimed_in_the_order_of_sending")
class DeliversBackwards(HealthySource):
    """Takes the queue for a stack."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        return list(reversed(await super().receive(limit, wait)))


@breaks("test_a_delayed_message_is_not_early")
class ForgetsDelays(HealthySource):
    """Delays nothing."""

    async def send(self, messages: Sequence[Outgoing]) -> None:
        await super().send([replace(message, delay=0) for message in messages])


@breaks("test_a_delayed_message_holds_nothing_up")
class DelaysWholeBatches(HealthySource):
    """Lets messages wait behind a delayed one."""

    async def send(self, messages: Sequence[Outgoing]) -> None:
        longest = max((message.delay for message in messages), default=0)
        await super().send([replace(message, delay=longest) for message in messages])


@breaks("test_empty_batches_do_nothing")
class FailsOnEmptyBatches(HealthySource):
    """Looks at the first of nothing."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        assert settlements[0]
        return await super().settle(settlements)


@breaks("test_the_limit_is_kept")
class ReturnsMoreThanAsked(HealthySource):
    """Returns one more than `limit`."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        return await super().receive(limit + 1, wait)


@breaks("test_a_batch_of_thousands_goes_through")
class SettlesEightThousandAtMost(HealthySource):
    """Has a limit of arguments that it doesn't mention."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        return [*await super().settle(settlements[:8000]), *[Settled.DONE for _ in settlements[8000:]]]


@breaks("test_producers_and_consumers_lose_and_double_nothing")
class LosesNowAndThen(HealthySource):
    """Drops the fifth of each batch."""

    async def send(self, messages: Sequence[Outgoing]) -> None:
        await super().send([message for place, message in enumerate(messages) if place != 4])


@breaks("test_producers_and_consumers_lose_and_double_nothing")
class ClaimsInTwoSteps(HealthySource):
    """Looks, and removes later: two consumers see the same."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        deliveries = await super().receive(limit, wait)
        for delivery in deliveries:
            if not delivery.message_id.startswith("copy of"):
                await self.send([Outgoing(body=delivery.body, message_id=f"copy of {delivery.message_id}")])
        return deliveries


@breaks("test_cancelled_receives_lose_nothing")
class LosesRepliesOnTheirWay(HealthySource):
    """Removes messages before they have arrived."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        deliveries = await super().receive(limit, wait)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            await self.settle([delivery.ack() for delivery in deliveries])
            raise
        return deliveries


@breaks("test_an_empty_queue_is_waited_for_and_not_longer")
class DoesNotWait(HealthySource):
    """Looks once, whatever `wait` is."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        return await super().receive(limit, 0)


@breaks("test_an_empty_queue_is_waited_for_and_not_longer")
@breaks("test_a_wait_of_zero_looks_once")
class WaitsForEver(HealthySource):
    """Returns when there is something."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        return await super().receive(limit, 3600)


@breaks("test_waiting_keeps_no_processor_busy")
class Spins(HealthySource):
    """Asks again and again."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        end = time.monotonic() + wait
        while not (deliveries := await super().receive(limit, 0)) and time.monotonic() < end:
            pass
        return deliveries


@breaks("test_a_send_ends_the_wait_of_another_source")
@breaks("test_a_release_ends_the_wait_of_another_source")
@breaks("test_a_redrive_ends_the_wait_of_another_source")
@breaks("test_a_delay_ends_the_wait")
class LooksAtTheEnd(HealthySource):
    """Sleeps while it waits, and looks then."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        await asyncio.sleep(wait)
        return await super().receive(limit, 0)


@breaks("test_other_calls_go_on_while_a_receive_waits")
class DoesOneThingAtATime(HealthySource):
    """Has one connection, which a waiting receive holds."""

    async def open(self) -> None:
        self.connection = asyncio.Lock()
        await super().open()

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        async with self.connection:
            return await super().receive(limit, wait)

    async def stats(self) -> QueueStats:
        async with self.connection:
            return await super().stats()


@breaks("test_overlapping_calls_are_kept_apart")
class MixesUpReplies(HealthySource):
    """Keeps the request of a call where the next call puts its own."""

    request: Sequence[Settlement]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        self.request = settlements
        await asyncio.sleep(0)
        return await super().settle(self.request)


@breaks("test_wake_ends_a_waiting_receive")
class IgnoresWake(HealthySource):
    """Can't be woken."""

    def wake(self) -> None:
        pass


@breaks("test_wake_is_remembered_for_the_next_receive")
class ForgetsWake(HealthySource):
    """Wakes only who waits already."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        self._is_woken = False
        return await super().receive(limit, wait)


@breaks("test_wake_is_remembered_for_the_next_receive")
class StaysAwake(HealthySource):
    """Doesn't wait any more after it was woken once."""

    was_woken = False

    def wake(self) -> None:
        self.was_woken = True
        super().wake()

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        return await super().receive(limit, 0 if self.was_woken else wait)


@breaks("test_wake_hides_no_message")
class DropsWhatComesWithWake(HealthySource):
    """Throws away what a receive that was woken has claimed."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        was_woken = self._is_woken
        deliveries = await super().receive(limit, wait)
        return [] if was_woken else deliveries
