"""RabbitSource: one queue of RabbitMQ with retries and dead letters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qbridge import (
    Capabilities,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueSource,
    QueueStats,
    Settled,
    Settlement,
    SourceClosed,
    SourceMisconfigured,
)
from qbridge_rabbitmq.names import QueueNames, check_queue
from qbridge_rabbitmq.options import RabbitOptions
from qbridge_rabbitmq.silences import Silences

if TYPE_CHECKING:
    from qbridge_rabbitmq.session import Session

__all__ = ["CAPABILITIES", "RabbitSource"]

#: Not ordered: what is released goes to the end of the queue, as its copy. Putting it back would count as a delivery
#: that failed, on every quorum queue before RabbitMQ 4.3, or look like one, on a classic queue.
CAPABILITIES = Capabilities(
    durable=True,
    shared=True,
    ordered=False,
    delay=True,
    lease="connection",
    attempts=True,
    headers=True,
    dead_letters=True,
)

_INSTALL = 'pip install "qbridge[rabbitmq]"'


class RabbitSource(QueueSource):
    """A queue of RabbitMQ. See `QueueSource` for what each method promises.

    Two connections: one that consumes and settles, made by `open`, and one that publishes, made by its first use.
    Neither reconnects by itself. AMQP has no answer to an acknowledgement: DONE means that the broker has read it, as a
    question sent behind it shows. A broker that is killed then may forget the newest, and deliver once more.

    Args:
        queue: The queue's name; also on the broker, unless the options name one.
        options: Where the broker is, and what the queue is like.
    """

    def __init__(self, queue: str, options: RabbitOptions) -> None:
        self.capabilities = CAPABILITIES
        self.lease = None
        self._queue = queue
        self._options = options
        self._names = QueueNames.of(check_queue(queue if options.queue is None else options.queue))
        self._silences = Silences(self._names.delay_prefix)
        self._is_woken = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: Session | None = None

    async def open(self) -> None:
        """Connect, and make what the queue needs."""
        if self._session is not None:
            raise SourceClosed(f"queue {self._queue!r} is open already: close() it first")
        try:
            from qbridge_rabbitmq.session import Session
        except ModuleNotFoundError as exc:
            if exc.name is None or exc.name.partition(".")[0] != "pika":
                raise
            raise SourceMisconfigured(
                f"queue {self._queue!r} needs the client library of RabbitMQ, which is not installed: {_INSTALL}"
            ) from exc
        session = Session(self._names, self._options, self._silences)
        try:
            await session.open()
        except BaseException:
            session.abort()
            raise
        self._loop, self._session = asyncio.get_running_loop(), session

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim up to `limit` messages, waiting for the first."""
        session = self._open_session()
        consumer = await session.consumer()
        if self._is_woken:
            self._is_woken = False
            consumer.wake()
        return await consumer.receive(limit, wait)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Settle: acknowledgements when the broker has read them, copies when it has confirmed them."""
        session = self._open_session()
        settler = session.settler
        if settler is None:  # nothing was received since the opening: whatever it is, it is of an earlier connection
            return [Settled.LOST] * len(settlements)
        return await settler.settle(settlements)

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Send with confirms, up to 1000 on their way."""
        await self._open_session().send(messages, time.time())

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return the deliveries of earlier connections: the others need nothing."""
        return self._open_session().lost(deliveries)

    async def stats(self) -> QueueStats:
        """Count. AMQP tells nobody of other workers' messages in flight, nor of ages: `in_flight` is this source's."""
        return await self._open_session().stats()

    async def dead_letters(
        self, *, limit: int = 100, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[DeadLetter]:
        """List dead letters, of the oldest 10,000. After one that is gone meanwhile, the list begins again."""
        return await self._open_session().graveyard.list(limit, after, ids)

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Make dead letters ready again; each is removed when its copy is confirmed. Their errors stay with them."""
        return await self._open_session().graveyard.redrive(ids)

    async def purge(self, ids: Sequence[str] | None = None) -> int:
        """Delete dead letters for good."""
        return await self._open_session().graveyard.purge(ids)

    def wake(self) -> None:
        """End the wait of a `receive`, or of the next one; before `open` too."""
        if self._session is None or not self._session.wake():
            self._is_woken = True

    async def close(self) -> None:
        """Put back what nobody has seen, and disconnect. Takes two seconds at most."""
        if self._session is None:
            return
        self._assert_own_loop()
        session, self._session = self._session, None
        try:
            await session.close()
        finally:
            session.abort()

    def _open_session(self) -> Session:
        if self._session is None:
            raise SourceClosed(f"queue {self._queue!r} is not open: call open() first")
        self._assert_own_loop()
        return self._session

    def _assert_own_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise SourceClosed(
                f"queue {self._queue!r} belongs to the event loop that opened it, and was called from another one"
            )
