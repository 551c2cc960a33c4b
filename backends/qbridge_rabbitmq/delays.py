"""Delays: queues in which messages wait until their time is over, one for each length of time.

The broker lets a message expire only at the head of a queue, so a queue must hold equal delays. The lengths are those
of a ladder of round times; a delay is rounded up to the next one, so it is never short, and at most half as long again
(below 100 ms it is 100 ms). A delay queue is made when it is first needed, and stays: an expiring one takes what it
holds with it, since a quorum queue (RabbitMQ 3.10) counts neither publishing nor declaring as a use.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from pika import BasicProperties

from qbridge import SourceError, SourceFull
from qbridge_rabbitmq.faults import NOT_FOUND, reply_code
from qbridge_rabbitmq.link import Channel, Link
from qbridge_rabbitmq.names import QueueNames
from qbridge_rabbitmq.publishing import Letter, Publisher
from qbridge_rabbitmq.silences import Silences
from qbridge_rabbitmq.topology import GROWN_UP

__all__ = ["LADDER", "Delays", "not_before", "step_of"]

_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000

#: Milliseconds. The broker has no room for more than 49 days.
LADDER = [
    *(100, 150, 200, 300, 400, 500, 700),
    *(int(seconds * _SECOND) for seconds in (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 45)),
    *(int(minutes * _MINUTE) for minutes in (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 45)),
    *(int(hours * _HOUR) for hours in (1, 1.5, 2, 3, 4, 5, 6, 8, 12, 18)),
    *(int(days * _DAY) for days in (1, 1.5, 2, 3, 4, 5, 7, 10, 14, 21, 28)),
]


def step_of(delay: float) -> int:
    """Return the milliseconds of the ladder for a delay in seconds, above 0: the next longer one, or the last."""
    return LADDER[min(bisect_left(LADDER, math.ceil(delay * 1000)), len(LADDER) - 1)]


def not_before(delay: float) -> float:
    """Return when a message is due that waits longer than the ladder, in seconds since the epoch; else 0."""
    return time.time() + delay if delay * 1000 > LADDER[-1] else 0.0


class Delays:
    """The delay queues of one queue.

    Args:
        link: An open link that doesn't publish.
        publisher: What asks which delay queues there are.
        names: What they are called.
        silences: Which of them can't be used.
        is_quorum: Whether they are quorum queues.
    """

    def __init__(
        self, link: Link, publisher: Publisher, names: QueueNames, silences: Silences, *, is_quorum: bool
    ) -> None:
        self._link = link
        self._publisher = publisher
        self._names = names
        self._silences = silences
        #: Whether they are quorum queues, out of which messages move at least once.
        self.is_quorum = is_quorum
        self._declaring = asyncio.Lock()
        #: When the queues into which delays lead will survive a kill of the broker, on the loop's clock.
        self.grown_up = 0.0
        self._grown_up: dict[int, float] = {}  # the same for each delay queue that is there
        self._channel: Channel | None = None

    def step_of(self, delay: float) -> int:
        """Return the step for a delay, or the next longer one whose queue isn't broken."""
        step = step_of(delay)
        if not self._silences:
            return step
        # Not deleted and made anew: a broker in the minority of its cluster calls any queue empty, and deletes by
        # force.
        longer = LADDER[LADDER.index(step) :]
        return next((other for other in longer if self._names.delay(other) not in self._silences), step)

    async def ensure(self, steps: Iterable[int]) -> float:
        """Make delay queues that are missing; return the seconds until all queues survive a kill of the broker.

        Raises:
            SourceError: The contract's error for whatever went wrong.
        """
        now = asyncio.get_running_loop().time
        latest = self.grown_up
        for step in steps:
            if step not in self._grown_up:
                async with self._declaring:
                    if step not in self._grown_up:
                        is_there = await self._find(step) is not None
                        await self._declare(await self._open(), step)
                        self._grown_up[step] = 0.0 if is_there or not self.is_quorum else now() + GROWN_UP
            latest = max(latest, self._grown_up[step])
        return max(0.0, latest - now()) if latest else 0.0

    async def count(self) -> int:
        """Return how many messages wait in all delay queues, whoever made them.

        Raises:
            SourceError: The contract's error for whatever went wrong.
        """
        total = 0
        try:
            used, is_known = await self._used(), True
        except SourceFull:  # a broker that takes nothing is asked for each, though that fills its log
            used, is_known = LADDER, False
        for step in used:
            async with self._declaring:
                found = await self._find(step)
                if found is None and is_known:  # somebody has deleted it
                    await self._unbind(await self._open(), step)
                    self._grown_up.pop(step, None)
            total += found or 0
        return total

    async def _find(self, step: int) -> int | None:
        """Return how many messages a delay queue has; None if it isn't there."""
        channel = await self._open()
        try:
            found = await channel.call(
                "queue_declare", self._names.delay(step), passive=True, doing="looking for a delay queue"
            )
        except SourceError:
            if channel.cause is None or reply_code(channel.cause) != NOT_FOUND:
                raise
            return None
        return int(found.message_count)

    async def _open(self) -> Channel:
        if self._channel is None or not self._channel.is_open:
            self._channel = await self._link.channel()
        return self._channel

    async def _declare(self, channel: Channel, step: int) -> None:
        arguments: dict[str, Any] = {
            "x-message-ttl": step,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self._names.work,
        }
        if self.is_quorum:
            # Otherwise the broker lets go of a message before its next queue has it.
            arguments |= {
                "x-queue-type": "quorum",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
        doing = "making a delay queue"
        await channel.call("queue_declare", self._names.delay(step), durable=True, arguments=arguments, doing=doing)
        await channel.call("queue_bind", self._names.delays, self._names.delays, str(step), doing=doing)

    async def _unbind(self, channel: Channel, step: int) -> None:
        await channel.call(
            "queue_unbind", self._names.delays, self._names.delays, str(step), doing="forgetting a delay queue"
        )

    async def _used(self) -> list[int]:
        # To ask for a queue that isn't there is an error, which the broker logs. But it tells at no cost whether a
        # message could be routed: each delay queue has a binding to a queue that keeps nothing.
        probes = [_probe(self._names.delays, step) for step in LADDER]
        batch = await self._publisher.start(probes)
        await self._publisher.wait(batch)
        return [step for position, step in enumerate(LADDER) if position not in batch.returned]


def _probe(exchange: str, step: int) -> Letter:
    return Letter(str(step), b"", BasicProperties(message_id=f"probe-{step}"), exchange)
