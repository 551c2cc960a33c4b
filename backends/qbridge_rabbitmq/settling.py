"""Settling: acknowledgements, and copies that take the place of what they are made of.

A copy is confirmed before its original is acknowledged, so a fault in between makes two of a message and never none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from qbridge import Action, Settled, Settlement, SourceError, SourceFull, SourceUnavailable
from qbridge_rabbitmq.consuming import Consumer
from qbridge_rabbitmq.delays import LADDER, Delays, not_before
from qbridge_rabbitmq.held import Held, Stage
from qbridge_rabbitmq.names import QueueNames
from qbridge_rabbitmq.papers import ATTEMPTS, DIED_AT, REASON, copy
from qbridge_rabbitmq.publishing import Batch, Letter, Publisher

__all__ = ["Settler"]

#: Seconds that copies wait for which the queue has no room.
_SHORTEST = LADDER[0] / 1000


class Settler:
    """Ends deliveries of one consumer.

    Args:
        consumer: Whose they are.
        publisher: What sends copies.
        delays: Where copies wait.
        names: What the queues are called.
    """

    def __init__(self, consumer: Consumer, publisher: Publisher, delays: Delays, names: QueueNames) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._delays = delays
        self._names = names
        self._unattended: set[Batch] = set()  # what nobody waits for any more
        self._young: list[tuple[asyncio.TimerHandle, Sequence[Held]]] = []

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Settle; return an outcome for each, in order.

        Raises:
            SourceUnavailable: The outcome of some or all is unknown.
        """
        await self._consumer.receiving_soon()
        self._consumer.raise_if_lost()
        outcomes: list[Settled] = []
        done: list[Held] = []
        others: list[tuple[Held, Settlement]] = []
        for settlement in settlements:
            receipt = settlement.delivery.receipt
            outcomes.append(Settled.DONE if self._consumer.is_ours(receipt) else Settled.LOST)
            held = self._consumer.find(receipt)
            if held is None or held.stage is not Stage.OUT:
                continue  # settled before, or about to be
            held.stage = Stage.LEAVING
            if settlement.action is Action.ACK:
                done.append(held)
            else:
                others.append((held, settlement))
        if done:
            self._consumer.ack(done)
        if others:
            await self._replace(others)
        await self._consumer.acknowledger.all_read()
        return outcomes

    async def hand_back(self, helds: Sequence[Held]) -> None:
        """Put deliveries back that nobody has seen. Their attempt doesn't count."""
        try:
            await self._send([(held, self._letter(held, self._names.work)) for held in helds])
        except SourceError:
            # Without a publishing connection: the broker may count it, but the message doesn't wait for our end.
            try:
                self._consumer.requeue(helds)
            except SourceError:
                return  # the broker has them back by itself

    async def divert(self, held: Held) -> None:
        """Exchange a delivery for a copy that tells of a crash, or that waits for the rest of a long delay."""
        papers = held.papers
        remaining = papers.not_before - time.time()
        young_for = 0.0
        if remaining > 0:
            step = self._delays.step_of(remaining)
            young_for = await self._delays.ensure({step})
            queue = self._names.delay(step)
            due = papers.not_before if not_before(remaining) else 0.0
            properties = copy(
                held.properties, papers.message_id, attempts=papers.attempts, crashes=papers.crashes, not_before=due
            )
        else:
            queue = self._names.work
            properties = copy(
                held.properties, papers.message_id, attempts=papers.attempts + 1, crashes=papers.crashes + 1
            )
        await self._send([(held, Letter(queue, held.body, properties))], young_for)

    async def _replace(self, others: Sequence[tuple[Held, Settlement]]) -> None:
        try:
            young_for = await self._delays.ensure(
                {
                    self._delays.step_of(settlement.delay)
                    for _, settlement in others
                    if settlement.action is Action.RETRY and settlement.delay > 0
                }
            )
            copies = [(held, self._settled_letter(held, settlement)) for held, settlement in others]
            await self._send(copies, young_for)
        except SourceError as fault:
            for held, _ in others:  # a repeated settlement of what was not taken must do it again
                held.stage = Stage.OUT
            if isinstance(fault, SourceFull):
                raise SourceUnavailable(str(fault)) from fault
            raise

    async def _send(self, copies: Sequence[tuple[Held, Letter]], young_for: float = 0.0) -> None:
        batch = await self._publisher.start([letter for _, letter in copies], may_wait=False)
        batch.done.add_done_callback(partial(self._finish, batch, [held for held, _ in copies], young_for))
        try:
            await self._publisher.wait(batch)
        except SourceFull:
            # The broker is short of memory, and may be for long. Acknowledgements must not wait for that: the
            # originals stay here, unsettled, until their copies are confirmed.
            self._leave(batch)
            return
        except asyncio.CancelledError:
            self._leave(batch)
            raise
        waiting = self._waiting_copies(batch, copies)
        if waiting:
            await self._send(waiting, await self._delays.ensure({self._delays.step_of(_SHORTEST)}))
        else:
            batch.raise_if_failed()

    def _leave(self, batch: Batch) -> None:
        """Let nobody wait for a batch any more."""
        if batch.done.done():
            self._check(batch)
        else:
            self._unattended.add(batch)
            self._consumer.count_copies(len(batch.letters))

    def _check(self, batch: Batch) -> None:
        """Give up if a batch for which nobody waits has failed."""
        if _is_lost(batch) or batch.failed:
            self._consumer.lose(
                SourceUnavailable("copies of messages did not reach RabbitMQ; the originals come again")
            )

    def _waiting_copies(self, batch: Batch, copies: Sequence[tuple[Held, Letter]]) -> list[tuple[Held, Letter]]:
        """Return copies of what was refused for want of room that wait for it; none if something else is wrong.

        A quorum queue is told to give up nothing that expires, so the broker tries again until there is room.
        """
        refused = [copies[position] for position in sorted(batch.refused)]
        if batch.returned or not self._delays.is_quorum or any(each.queue != self._names.work for _, each in refused):
            return []
        queue = self._names.delay(self._delays.step_of(_SHORTEST))
        return [(held, Letter(queue, letter.body, letter.properties)) for held, letter in refused]

    def _finish(self, batch: Batch, helds: Sequence[Held], young_for: float, _done: Any) -> None:
        if not _is_lost(batch):
            copied = [held for position, held in enumerate(helds) if position not in batch.failed]
            if young_for:
                # A broker that is killed now would lose the copies with their queue: the originals stay until then.
                self._young.append((asyncio.get_running_loop().call_later(young_for, self._let_go, copied), copied))
            else:
                self._let_go(copied)
        if batch in self._unattended:
            self._unattended.discard(batch)
            self._consumer.count_copies(-len(batch.letters))
            self._check(batch)

    def finish(self) -> None:
        """Acknowledge what was waiting for its copy's queue to be safe: the connection is about to end."""
        young, self._young = self._young, []
        for timer, copied in young:
            if not timer.cancelled():
                timer.cancel()
                self._let_go(copied)

    def _let_go(self, copied: Sequence[Held]) -> None:
        self._young = [entry for entry in self._young if entry[1] is not copied]
        try:
            self._consumer.ack(copied)
        except SourceError:
            return  # the connection of the originals is lost: they come again, beside their copies

    def _settled_letter(self, held: Held, settlement: Settlement) -> Letter:
        attempts, crashes = held.papers.attempts + 1, held.papers.crashes
        if settlement.action is Action.RELEASE:
            return self._letter(held, self._names.work)
        if settlement.action is Action.DEAD_LETTER:
            more = {REASON: settlement.reason[:64], DIED_AT: repr(time.time()), ATTEMPTS: attempts}
            queue, due = self._names.dead, 0.0
        else:
            more = {}
            queue, due = self._names.work, not_before(settlement.delay)
            if settlement.delay > 0:
                queue = self._names.delay(self._delays.step_of(settlement.delay))
        properties = copy(
            held.properties,
            held.papers.message_id,
            attempts=attempts,
            crashes=crashes,
            error=settlement.error,
            not_before=due,
            more=more,
        )
        return Letter(queue, held.body, properties)

    def _letter(self, held: Held, queue: str) -> Letter:
        papers = held.papers
        properties = copy(held.properties, papers.message_id, attempts=papers.attempts, crashes=papers.crashes)
        return Letter(queue, held.body, properties)


def _is_lost(batch: Batch) -> bool:
    """Return whether a batch that is done ended with its channel."""
    return batch.done.cancelled() or batch.done.exception() is not None
