"""Consumer: takes deliveries as they are asked for, and knows what is unsettled. Imports the client library's channel.

The broker pushes, the core pulls. A consumer is told to hold no more than a receive asks for, and stays for a moment
after it, since under load the next receive follows within a millisecond. What comes meanwhile is handed out by that
one; if none comes, the consumer is cancelled and what it holds goes back to the queue.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from qbridge import Delivery, SourceClosed, SourceError, SourceUnavailable
from qbridge_rabbitmq.acknowledging import Acknowledger
from qbridge_rabbitmq.held import Held, Stage
from qbridge_rabbitmq.link import Channel, Link
from qbridge_rabbitmq.papers import glance, read, user_headers
from qbridge_rabbitmq.raw import unused

__all__ = ["Consumer"]

#: Seconds that the consumer stays without a receive.
_LINGER = 0.05

#: Seconds that a receive waits for settlements to make room, before it asks the broker for more at once.
_SETTLING = 0.01

#: Seconds that a receive which must not wait gives a delivery that the broker has counted already.
_GLANCE = 0.25

#: Turns of the loop in which more of a burst may come in, or a receive begin.
_TURNS = 4

#: Each consuming channel counts its deliveries from 1: what was delivered by an earlier one must not be settled.
_epochs = itertools.count(1)


class Consumer:
    """The consuming side of one connection. Belongs to the link's loop.

    Args:
        channel: An open channel that nobody else uses.
        queue: What to consume.
        most: Messages that may be on their way at once.
        hand_back: Puts deliveries back into the queue, uncounted, and settles them.
        divert: Whether a delivery isn't for the core: it has been taken over.
        start: Runs something beside; the owner ends it.
    """

    def __init__(
        self,
        channel: Channel,
        queue: str,
        most: int,
        *,
        hand_back: Callable[[Sequence[Held]], Awaitable[None]],
        divert: Callable[[Held], bool],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self.epoch = next(_epochs)
        self.is_woken = False
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._queue = queue
        self._most = most
        self._hand_back = hand_back
        self._divert = divert
        self._start = start
        self._lost: SourceError | None = None
        self._held: dict[int, Held] = {}  # in the order of their tags
        self._buffer: deque[Held] = deque()
        self._tag: bytes | None = None  # the consumer's own name while there is one
        self._window = 0  # what it may hold
        self._taken = 0  # what it holds
        self._copies = 0  # wait for a broker that takes nothing
        #: What is acknowledged, and whether the broker has read it.
        self.acknowledger = Acknowledger(channel, start=start, lose=self.lose)
        self._changing = asyncio.Lock()
        self._waiter: asyncio.Future[None] | None = None
        self._is_receiving = False
        self._timer: asyncio.TimerHandle | None = None
        channel.on_lost = self.lose
        channel.raw.give_to(self._take)
        channel.raw.add_on_cancel_callback(self._on_cancelled)

    @classmethod
    async def on(cls, link: Link, queue: str, most: int, **hooks: Any) -> Consumer:
        """Return a consumer on a new channel of a link."""
        return cls(await link.channel(), queue, most, **hooks)

    @property
    def waiting(self) -> int:
        """How many deliveries are here and were not handed out."""
        return len(self._buffer)

    @property
    def out(self) -> int:
        """How many deliveries are with the core."""
        return sum(held.stage is Stage.OUT for held in self._held.values())

    def raise_if_lost(self) -> None:
        """Raise the contract's error if deliveries can't be settled any more."""
        if self._lost is not None:
            raise type(self._lost)(str(self._lost))

    def lose(self, fault: SourceError) -> None:
        """Give up: what is held will be delivered again by the broker."""
        if self._lost is None:
            self._lost = fault
            self._notify()

    def wake(self) -> None:
        """End the wait of a receive, or of the next one."""
        self.is_woken = True
        self._notify()

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Hand out up to `limit` deliveries, waiting for the first. Cancelling loses none.

        Raises:
            SourceUnavailable: The channel is lost.
        """
        deadline = self._loop.time() + wait
        if self._copies >= self._most and not await self._room(deadline):
            return []
        self._is_receiving = True
        self._stop_timer()
        try:
            if not self._buffer and not self.is_woken:
                await self._fill(limit, deadline if wait > 0 else None)
            self.raise_if_lost()
            self.is_woken = False
            return [self._hand_out() for _ in range(min(limit, len(self._buffer)))]
        finally:
            self._is_receiving = False
            self._linger()

    def count_copies(self, change: int) -> None:
        """Take note of copies that wait for a broker that takes nothing, or wait no longer.

        Their originals stay here, so beyond a measure nothing more is received.
        """
        self._copies += change
        self._notify()

    async def receiving_soon(self) -> None:
        """Give a receive that is about to begin the turns of the loop that it needs."""
        for _ in range(_TURNS):
            if self._is_receiving or self._tag is None:
                return
            await asyncio.sleep(0)

    def find(self, receipt: object) -> Held | None:
        """Return the delivery of a receipt, if it is held; None if it is settled or of an earlier connection."""
        epoch, tag = receipt if isinstance(receipt, tuple) else (0, 0)
        return self._held.get(tag) if epoch == self.epoch else None

    def is_ours(self, receipt: object) -> bool:
        """Return whether a receipt is of this connection, settled or not."""
        return self._lost is None and isinstance(receipt, tuple) and receipt[0] == self.epoch

    def ack(self, helds: Sequence[Held]) -> None:
        """Acknowledge deliveries; those already settled are skipped.

        Raises:
            SourceUnavailable: The channel is lost.
        """
        self.raise_if_lost()
        tags = {held.tag for held in helds if held.tag in self._held}
        if not self._is_receiving:
            self._cancel_first()
        self.acknowledger.send(self._held, tags)
        self._drop(tags)

    def requeue(self, helds: Sequence[Held]) -> None:
        """Put deliveries back as they are; on a quorum queue the broker counts it.

        Raises:
            SourceUnavailable: The channel is lost.
        """
        self.raise_if_lost()
        tags = [held.tag for held in helds if held.tag in self._held]
        for tag in tags:
            self._channel.cast("basic_nack", tag, False, True, doing="putting messages back")
        self._drop(tags)

    async def stop(self) -> None:
        """Take no more, and put back what was not handed out."""
        self._stop_timer()
        if self._lost is None:
            await self._cancel()
            await self._empty()

    def detach(self) -> None:
        """Let go of the timer; the channel ends with its connection."""
        self._stop_timer()
        self.lose(SourceClosed("the consuming channel to RabbitMQ is closed"))

    def _hand_out(self) -> Delivery:
        held = self._buffer.popleft()
        held.stage = Stage.OUT
        papers = held.papers
        delivery = Delivery(
            body=held.body,
            receipt=(self.epoch, held.tag),
            message_id=papers.message_id,
            attempt=papers.attempts + 1,
            crashes=papers.crashes,
            enqueued_at=papers.enqueued_at,
        )
        if held.has_headers:
            delivery.headers = user_headers(held.properties)
        return delivery

    async def _fill(self, limit: int, deadline: float | None) -> None:
        """Wait until there is a delivery, or the deadline is over, or somebody wakes us; None looks once."""
        want = min(limit, self._most)
        if self._does_not_fit(want):
            await self._consume(want)
        if deadline is None:
            await self._look()
            return
        if not self._buffer:
            await self._settlements(want, deadline)
            if not self._buffer and not self.is_woken and self._window - self._taken < want:
                await self._consume(want)  # all that this consumer may hold is at work
        await self._arrival(deadline - self._loop.time())
        for _ in range(_TURNS):
            before = len(self._buffer)
            if not 0 < before < limit:
                break
            await asyncio.sleep(0)
            if len(self._buffer) == before:
                break

    async def _settlements(self, want: int, deadline: float) -> None:
        """Wait for settlements of handlers that have ended, which make room; those after a question for its answer."""
        until = self._loop.time() + _SETTLING
        while self._window - self._taken < want and (rest := min(until, deadline) - self._loop.time()) > 0:
            await self._arrival(rest)
            if self._buffer or self.is_woken or self._lost is not None:
                return
            if self.acknowledger.is_asking:
                until = self._loop.time() + _SETTLING

    async def _room(self, deadline: float) -> bool:
        """Wait until fewer copies wait; return whether it is so."""
        while self._copies >= self._most and not self.is_woken and self._loop.time() < deadline:
            self.raise_if_lost()
            await self._notice(deadline - self._loop.time())
        self.raise_if_lost()
        has_room = self._copies < self._most
        self.is_woken &= has_room
        return has_room

    def _does_not_fit(self, want: int) -> bool:
        free = self._window - self._taken
        return self._tag is None or self._window * 2 < want + self._taken or free > 2 * want

    async def _look(self) -> None:
        # The queue answers in the order in which it works: what it sent before this answer is here.
        found = await self._channel.call("queue_declare", self._queue, passive=True, doing="looking for messages")
        if found.message_count and not self._buffer:
            await self._arrival(_GLANCE)

    async def _arrival(self, timeout: float) -> None:
        if not (self._buffer or self.is_woken or self._lost is not None or timeout <= 0):
            await self._notice(timeout)

    async def _notice(self, timeout: float) -> None:
        """Wait until something has happened, or the time is over."""
        self._waiter = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._waiter
        except TimeoutError:
            return
        finally:
            self._waiter = None

    async def _consume(self, window: int) -> None:
        # Apart, as a receive may be cancelled at any point of it.
        task = self._start(self._replace(window))
        await asyncio.wait({task})
        self.raise_if_lost()
        task.result()

    async def _replace(self, window: int) -> None:
        try:
            async with self._changing:
                await self._cancel_now()
                # A window is for consumers that come after it: those that are there keep theirs.
                await self._channel.call("basic_qos", prefetch_count=window, doing="setting the window")
                tag = f"qbridge.{uuid.uuid4().hex}"
                self._tag, self._window, self._taken = tag.encode(), window, 0
                await self._channel.call(
                    "basic_consume", self._queue, unused, consumer_tag=tag, doing=f"consuming {self._queue!r}"
                )
        except SourceError as fault:
            self.lose(fault)

    async def _cancel(self) -> None:
        try:
            async with self._changing:
                await self._cancel_now()
        except SourceError as fault:
            self.lose(fault)

    async def _cancel_now(self) -> None:
        if self._tag is not None:
            await self._channel.call("basic_cancel", self._tag.decode(), doing="ending the consumption")
            self._tag, self._window, self._taken = None, 0, 0

    def _cancel_first(self) -> None:
        """End the consumption before what is sent next, if there is any.

        What would come into the room that acknowledgements make has no taker, and would crash with this worker.
        """
        if self._tag is not None and not self._changing.locked():
            tag, self._tag, self._window, self._taken = self._tag, None, 0, 0
            self._channel.cast("basic_cancel", tag.decode(), doing="ending the consumption")

    def _linger(self) -> None:
        if self._timer is None and self._lost is None and (self._buffer or self._window > self._taken):
            self._timer = self._loop.call_later(_LINGER, self._rest)

    def _rest(self) -> None:
        self._timer = None
        if not self._is_receiving and self._lost is None:
            self._start(self._leave())

    async def _leave(self) -> None:
        if not self._is_receiving:
            await self._cancel()
        if not self._is_receiving and self._lost is None:
            await self._empty()

    async def _empty(self) -> None:
        helds = list(self._buffer)
        self._buffer.clear()
        if helds:
            for held in helds:
                held.stage = Stage.LEAVING
            await self._hand_back(helds)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop(self, tags: Sequence[int] | set[int]) -> None:
        for tag in tags:
            held = self._held.pop(tag, None)
            if held is not None and held.consumer == self._tag:
                self._taken -= 1

    def _take(self, helds: list[Held]) -> None:
        # Whatever escapes from here closes the connection.
        try:
            before = len(self._buffer)
            for held in helds:
                held.papers = (held.header and glance(held.header)) or read(held.properties, held.body)
                self._held[held.tag] = held
                if held.consumer == self._tag:
                    self._taken += 1
                if (held.is_redelivered or held.papers.not_before) and self._divert(held):
                    held.stage = Stage.LEAVING
                else:
                    self._buffer.append(held)
            if not self._is_receiving:
                self._linger()
            elif len(self._buffer) > before:
                self._notify()
        except Exception as exc:  # noqa: BLE001  # a border: the client library's callback
            self.lose(SourceUnavailable(f"a delivery from RabbitMQ could not be taken: {exc!r}"))

    def _on_cancelled(self, _frame: Any) -> None:
        self.lose(
            SourceUnavailable(f"RabbitMQ has ended the consumption of {self._queue!r}: the queue was deleted or moved")
        )

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
