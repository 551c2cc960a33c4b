"""Sources that break the rules of leases, settlements and dead letters, one each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qbridge import Action, DeadLetter, Delivery, Outgoing, Settled, Settlement
from qbridge_memory import MemoryBroker, MemoryOptions
from tests.conformance.broken_deliveries import ChangesDeliveries
from tests.conformance.healthy import HealthySource, breaks


@breaks("test_an_unsettled_delivery_comes_back")
class NeverLetsGo(HealthySource):
    """Has leases that don't end."""

    def __init__(self, name: str, options: MemoryOptions, *, broker: MemoryBroker) -> None:
        super().__init__(name, options, broker=broker)
        self.lease = 3600.0


@breaks("test_a_delivery_is_nobody_elses_during_its_lease")
class LetsGoTooSoon(HealthySource):
    """Has leases that end half way."""

    def __init__(self, name: str, options: MemoryOptions, *, broker: MemoryBroker) -> None:
        super().__init__(name, options, broker=broker)
        self.lease = options.lease / 2


@breaks("test_each_crash_is_counted")
@breaks("test_attempts_add_up_over_retries_and_releases")
class ForgetsAttempts(ChangesDeliveries):
    """Counts attempts in the worker, where a crash forgets them."""

    def changed(self, delivery: Delivery) -> Delivery:
        return replace(delivery, attempt=1)


@breaks("test_each_crash_is_counted")
class ForgetsCrashes(ChangesDeliveries):
    """Doesn't tell crashes from retries."""

    def changed(self, delivery: Delivery) -> Delivery:
        return replace(delivery, crashes=0)


@breaks("test_keep_alive_holds_a_delivery")
@breaks("test_keep_alive_names_what_is_lost")
class KeepsNothingAlive(HealthySource):
    """Says that all is well."""

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return []


@breaks("test_a_late_settlement_is_lost_and_changes_nothing")
class SettlesByMessage(HealthySource):
    """Doesn't fence: settles whatever delivery of the message is in flight."""

    current: dict[str, Delivery] = {}  # noqa: RUF012  # shared by the sources on purpose, as a broker's state is

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        deliveries = await super().receive(limit, wait)
        self.current.update({delivery.message_id: delivery for delivery in deliveries})
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        outcomes = []
        for settlement in settlements:
            current = replace(settlement, delivery=self.current[settlement.delivery.message_id])
            outcomes += self._queue.settle([current], 60.0)
        return outcomes


@breaks("test_a_batch_with_late_settlements_ends_the_others")
class StopsAtTheFirstLost(HealthySource):
    """Gives up a batch in its middle."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        outcomes: list[Settled] = []
        for settlement in settlements:
            lost = Settled.LOST in outcomes
            outcomes += [Settled.LOST] if lost else await super().settle([settlement])
        return outcomes


@breaks("test_a_killed_consumer_loses_nothing")
class RemovesAtTheClaim(HealthySource):
    """Delivers at most once."""

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        deliveries = await super().receive(limit, wait)
        await self.settle([delivery.ack() for delivery in deliveries])
        return deliveries


class ChangesSettlements(HealthySource):
    """Does something else than it was told."""

    instead: dict[Action, Action]

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        return await super().settle(
            [replace(one, action=self.instead.get(one.action, one.action)) for one in settlements]
        )


@breaks("test_ack_removes_the_message")
class IgnoresAcks(HealthySource):
    """Acknowledges nothing."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        await super().settle([one for one in settlements if one.action is not Action.ACK])
        return [Settled.DONE for _ in settlements]


@breaks("test_one_batch_settles_in_several_ways")
class SettlesAllAlike(HealthySource):
    """Does to the whole batch what its first settlement says."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        return await super().settle([replace(one, action=settlements[0].action) for one in settlements])


@breaks("test_settling_twice_is_settling_once")
class FailsOnTheSecondTime(HealthySource):
    """Raises for what it doesn't find."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        outcomes = await super().settle(settlements)
        if Settled.LOST in outcomes:
            raise KeyError("no such delivery")
        return outcomes


@breaks("test_settling_twice_is_settling_once")
class ReturnsTwice(HealthySource):
    """Puts back a copy each time it is asked to."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        outcomes = await super().settle(settlements)
        for settlement, outcome in zip(settlements, outcomes, strict=True):
            if outcome is Settled.LOST and settlement.action is Action.RELEASE:
                delivery = settlement.delivery
                await self.send([Outgoing(body=delivery.body, message_id=delivery.message_id)])
        return outcomes


@breaks("test_release_puts_a_message_back_untried")
@breaks("test_released_messages_come_first_in_their_old_order")
@breaks("test_attempts_add_up_over_retries_and_releases")
class RetriesWhatIsReleased(ChangesSettlements):
    """Counts a release, and sends the message to the end."""

    instead = {Action.RELEASE: Action.RETRY}  # noqa: RUF012  # a constant


@breaks("test_retry_brings_a_message_back")
class AcksWhatIsRetried(ChangesSettlements):
    """Loses what is to be tried again."""

    instead = {Action.RETRY: Action.ACK}  # noqa: RUF012  # a constant


@breaks("test_a_delivery_names_its_message")
@breaks("test_headers_come_back_too")
@breaks("test_attempts_add_up_over_retries_and_releases")
class RetriesByCopy(HealthySource):
    """Sends a copy of the body, and nothing else of the message."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        for settlement in settlements:
            if settlement.action is Action.RETRY:
                delivery = settlement.delivery
                await self.send([Outgoing(body=delivery.body, message_id=f"copy of {delivery.message_id}")])
        return await super().settle([one.delivery.ack() if one.action is Action.RETRY else one for one in settlements])


@breaks("test_a_retry_is_not_early")
class RetriesAtOnce(HealthySource):
    """Has no delay for retries."""

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        return await super().settle([replace(one, delay=0) for one in settlements])


@breaks("test_a_dead_letter_is_kept_as_it_was")
class DeletesTheDead(ChangesSettlements):
    """Keeps no dead letters."""

    instead = {Action.DEAD_LETTER: Action.ACK}  # noqa: RUF012  # a constant


class ChangesDeadLetters(HealthySource):
    """Does something to each dead letter."""

    async def dead_letters(
        self, *, limit: int = 100, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[DeadLetter]:
        return [self.changed(dead) for dead in await super().dead_letters(limit=limit, after=after, ids=ids)]

    def changed(self, dead: DeadLetter) -> DeadLetter:
        raise AssertionError


@breaks("test_a_dead_letter_is_kept_as_it_was")
class DecodesTheDead(ChangesDeadLetters):
    """Takes bodies for text, which undecodable ones are not."""

    def changed(self, dead: DeadLetter) -> DeadLetter:
        return replace(dead, body=dead.body.decode(errors="replace").encode())


@breaks("test_a_dead_letter_keeps_its_headers")
class DropsHeadersOfTheDead(ChangesDeadLetters):
    """Keeps the body only."""

    def changed(self, dead: DeadLetter) -> DeadLetter:
        return replace(dead, headers={})


@breaks("test_the_newest_errors_are_kept")
class KeepsTheLastErrorOnly(ChangesDeadLetters):
    """Has no history."""

    def changed(self, dead: DeadLetter) -> DeadLetter:
        return replace(dead, errors=dead.errors[-1:])


@breaks("test_dead_letters_are_listed_in_pages")
class HasOnePage(HealthySource):
    """Begins at the beginning each time."""

    async def dead_letters(
        self, *, limit: int = 100, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[DeadLetter]:
        return await super().dead_letters(limit=limit, ids=ids)


@breaks("test_redrive_makes_dead_letters_new")
class RedrivesWithOldCounts(HealthySource):
    """Lets a redriven message die at its next failure."""

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        messages = [dead.message for dead in self._queue._dead.values()]
        counts = [(message.attempts, message.crashes) for message in messages]
        redriven = await super().redrive(ids)
        for message, (attempts, crashes) in zip(messages, counts, strict=True):
            message.attempts, message.crashes = attempts, crashes
        return redriven


@breaks("test_redrive_takes_the_named_ones")
@breaks("test_purge_deletes_dead_letters")
class TakesAllTheDead(HealthySource):
    """Doesn't look at the ids."""

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        return await super().redrive()

    async def purge(self, ids: Sequence[str] | None = None) -> int:
        return await super().purge()
