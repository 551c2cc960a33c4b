"""Session: all that lives between one `open` and the `close` after it. Imports the client library."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from qbridge import Delivery, Outgoing, QueueStats, SourceError
from qbridge_rabbitmq.consuming import Consumer
from qbridge_rabbitmq.delays import Delays, not_before
from qbridge_rabbitmq.graveyard import Graveyard
from qbridge_rabbitmq.held import Held
from qbridge_rabbitmq.link import Channel, Link
from qbridge_rabbitmq.names import QueueNames
from qbridge_rabbitmq.options import RabbitOptions
from qbridge_rabbitmq.papers import fresh
from qbridge_rabbitmq.publishing import Letter, Publisher
from qbridge_rabbitmq.settling import Settler
from qbridge_rabbitmq.silences import Silences
from qbridge_rabbitmq.topology import GROWN_UP, check_version, make_topology

__all__ = ["Session"]

#: Seconds for putting back, when it closes, what nobody has seen.
_PUTTING_BACK = 0.7


class Session:
    """Connections, channels and what they are for. Belongs to the loop that opens it; opened once.

    Args:
        names: What the queues are called.
        options: Where the broker is, and what the queue is like.
        silences: What is remembered of queues that confirm nothing.
    """

    def __init__(self, names: QueueNames, options: RabbitOptions, silences: Silences) -> None:
        self._names = names
        self._options = options
        self._is_quorum = options.queue_type == "quorum"
        self._link = Link(options, f"qbridge {names.work}")
        self._publisher = Publisher(
            lambda: Link(options, f"qbridge {names.work} publishing"), options.command_timeout, silences
        )
        self._consumer: Consumer | None = None
        self.settler: Settler | None = None
        self._delays = Delays(self._link, self._publisher, names, silences, is_quorum=self._is_quorum)
        self.graveyard = Graveyard(self._link, self._publisher, names)
        self._counting: Channel | None = None
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect, and make what the queue needs.

        Raises:
            SourceUnavailable: The broker can't be reached.
            SourceMisconfigured: It refuses what is configured.
        """
        await self._link.open()
        check_version(self._link)
        if await make_topology(self._link, self._names, self._options):
            self._delays.grown_up = asyncio.get_running_loop().time() + GROWN_UP

    async def consumer(self) -> Consumer:
        """Return what receives; made by the first call.

        Raises:
            SourceUnavailable: The connection is lost.
        """
        if self._consumer is None:
            async with self._opening:
                if self._consumer is None:
                    consumer = await Consumer.on(
                        self._link,
                        self._names.work,
                        self._options.prefetch,
                        hand_back=self._hand_back,
                        divert=self._divert,
                        start=self._start,
                    )
                    self.settler = Settler(consumer, self._publisher, self._delays, self._names)
                    self._consumer = consumer
        return self._consumer

    async def send(self, messages: Sequence[Outgoing], now: float) -> None:
        """Send messages in order; return when the broker has all of them.

        Raises:
            SourceError: The contract's error for whatever went wrong.
        """
        self._link.raise_if_lost()
        delays = self._delays
        young_for = await delays.ensure({delays.step_of(message.delay) for message in messages if message.delay > 0})
        letters = []
        for message in messages:
            if message.delay > 0:
                queue = self._names.delay(delays.step_of(message.delay))
                letters.append(Letter(queue, message.body, fresh(message, now, not_before(message.delay))))
            else:
                letters.append(Letter(self._names.work, message.body, fresh(message, now)))
        await self._publisher.publish(letters)
        if young_for:  # until then a broker that is killed would lose what it has accepted
            await asyncio.sleep(young_for)
            self._link.raise_if_lost()  # it was killed meanwhile: nobody knows what it has kept

    def lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return those of the deliveries that are not of this session.

        Raises:
            SourceUnavailable: The connection is lost.
        """
        self._link.raise_if_lost()
        consumer = self._consumer
        return [each for each in deliveries if consumer is None or not consumer.is_ours(each.receipt)]

    async def stats(self) -> QueueStats:
        """Count what is in the queue.

        Raises:
            SourceError: The contract's error for whatever went wrong.
        """
        ready = await self._count(self._names.work)
        dead = await self._count(self._names.dead)
        delayed = await self._delays.count()
        consumer = self._consumer
        return QueueStats(
            ready=ready + (consumer.waiting if consumer is not None else 0),
            delayed=delayed,
            in_flight=consumer.out if consumer is not None else 0,
            dead=dead,
        )

    def wake(self) -> bool:
        """End the wait of a receive, or of the next one; return whether there is anything to wake."""
        if self._consumer is None:
            return False
        self._consumer.wake()
        return True

    async def close(self) -> None:
        """Put back what nobody has seen, and disconnect."""
        if self._consumer is not None:
            with contextlib.suppress(TimeoutError, SourceError):
                async with asyncio.timeout(_PUTTING_BACK):
                    await self._consumer.stop()
                    while self._tasks:
                        await asyncio.wait(self._tasks)
            if self.settler is not None:
                self.settler.finish()
            await asyncio.sleep(self._consumer.acknowledger.digesting_for)
            self._consumer.detach()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self._publisher.close(), self._link.close())

    def abort(self) -> None:
        """Cut the connections, if they are still there."""
        for task in self._tasks:
            task.cancel()
        if self._consumer is not None:
            self._consumer.detach()
        self._publisher.abort()
        self._link.abort()

    async def _count(self, queue: str) -> int:
        async with self._opening:
            if self._counting is None or not self._counting.is_open:
                self._counting = await self._link.channel()
            answer = await self._counting.call("queue_declare", queue, passive=True, doing=f"counting {queue!r}")
            return int(answer.message_count)

    async def _hand_back(self, helds: Sequence[Held]) -> None:
        if self.settler is not None:
            await self.settler.hand_back(helds)

    def _divert(self, held: Held) -> bool:
        """Take over a delivery that can't be handed out as it is."""
        due = held.papers.not_before
        # A classic queue counts no deliveries. What comes again has not been settled by its worker: a copy says so.
        is_uncounted = held.is_redelivered and not self._is_quorum
        if not is_uncounted and (not due or due <= time.time()):
            return False
        self._start(self._exchange(held))
        return True

    async def _exchange(self, held: Held) -> None:
        assert self.settler is not None
        try:
            await self.settler.divert(held)
        except SourceError as fault:
            if self._consumer is not None:
                self._consumer.lose(fault)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
