"""Mover: from one queue to another, so that each message is on at least one of them at any time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from qbridge.cli.operating import ANSWER_TIMEOUT, bounded
from qbridge.codec import Codec, JsonCodec
from qbridge.errors import MessageError, MessageTooLargeError, SourceError, SourceUnavailable
from qbridge.message import new_message_id
from qbridge.signing import Signer
from qbridge.source import Delivery, Outgoing, QueueSource, Settled, Settlement

__all__ = ["BATCH", "MoveError", "Mover", "Place"]

#: Messages claimed and sent at once: as many may be on both queues after a kill.
BATCH = 100

#: Seconds after which a queue that gives nothing is taken for empty.
_WAIT = 2.0

#: Seconds that the other queue may take for a batch, and for the one under way after `stop`.
_SEND_TIMEOUT = 30.0
_SEND_TIMEOUT_STOPPING = 5.0

#: Seconds in which acknowledgements are tried again, over new connections.
_ACK_PATIENCE = 15.0
_ACK_PAUSE = 0.5


class MoveError(SourceUnavailable):
    """A queue was lost while messages were moved; the text says which messages are where."""


@dataclass(frozen=True, slots=True)
class Place:
    """One end of a move.

    Attributes:
        queue: The queue's name.
        source: Its source, open.
        codec: Reads its messages, and signs them if it has a signer.
        max_message_size: Bytes that no message of the queue may exceed.
    """

    queue: str
    source: QueueSource
    codec: Codec
    max_message_size: int


class Mover:
    """Moves messages as they are, byte for byte: claims from one queue, sends to the other, and then acknowledges.

    Only a signature, which holds for one queue, is made anew: of a message whose signature holds on the first one. On
    the other queue a message is new: its attempts and errors begin anew. Used once, on one loop.

    Args:
        origin: Where messages are taken.
        target: Where they go.
        show: Called with how many were moved, after each batch.
    """

    def __init__(self, origin: Place, target: Place, *, show: Callable[[int], object] = lambda moved: None) -> None:
        self._origin = origin
        self._target = target
        self._signers = _signer(origin), _signer(target)
        self._show = show
        self._stopping = asyncio.Event()
        #: Messages that are on the target.
        self.moved = 0
        #: How many of them are on the origin as well: a lease ran out before the target had confirmed.
        self.doubled = 0
        #: How many of them had headers that the target can't carry.
        self.without_headers = 0

    async def move(self, limit: int) -> None:
        """Move up to `limit` messages, until none is ready or `stop` is called. What was claimed is settled in the end.

        Raises:
            SourceError: A queue is lost, or the target full. The text says what is not known.
            MessageTooLargeError: The target would take the next message for too large.
        """
        while self.moved < limit and not self._stopping.is_set():
            origin, count = self._origin, min(BATCH, limit - self.moved)
            deliveries = await bounded(origin.source.receive(count, _WAIT), origin.queue, _WAIT + ANSWER_TIMEOUT)
            if not deliveries:
                return
            fitting = next((place for place, one in enumerate(deliveries) if self._is_too_large(one)), len(deliveries))
            if self._stopping.is_set():
                fitting = 0
            if fitting < len(deliveries):
                await self._release(deliveries[fitting:])
            if fitting:
                await self._forward(deliveries[:fitting])
            if fitting < len(deliveries) and not self._stopping.is_set():
                raise MessageTooLargeError(len(self._body(deliveries[fitting])), self._target.max_message_size)

    def stop(self) -> None:
        """Let `move` return soon: what is on its way is finished, what isn't is released."""
        self._stopping.set()
        self._origin.source.wake()

    async def _forward(self, deliveries: Sequence[Delivery]) -> None:
        renewing = asyncio.create_task(self._renew(deliveries))
        try:
            try:
                await self._send([self._outgoing(delivery) for delivery in deliveries])
            except BaseException:
                await self._release(deliveries)
                raise
            self.moved += len(deliveries)
            await self._acknowledge(deliveries)
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])
        self._show(self.moved)

    async def _send(self, messages: Sequence[Outgoing]) -> None:
        """Return when the target has the messages; a send that is cut off may have arrived."""
        sending = asyncio.create_task(self._target.source.send(messages))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([sending, stopping], timeout=_SEND_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done() and self._stopping.is_set():
                await asyncio.wait([sending], timeout=_SEND_TIMEOUT_STOPPING)
            if not sending.done():
                raise MoveError(f"queue {self._target.queue!r} did not take {_messages(len(messages))} in time")
            sending.result()
        except SourceUnavailable as exc:
            raise MoveError(
                f"{exc}; {_messages(len(messages))} went back to queue {self._origin.queue!r}, and it is not known "
                f"whether queue {self._target.queue!r} has them too"
            ) from exc
        finally:
            for task in (sending, stopping):
                task.cancel()
            await asyncio.wait([sending, stopping], timeout=_SEND_TIMEOUT_STOPPING)
            if sending.done() and not sending.cancelled():
                sending.exception()  # retrieved, if it failed only after it was given up

    async def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Take from the origin what the target has; over a new connection if the first one breaks."""
        source, deadline = self._origin.source, monotonic() + _ACK_PATIENCE
        settlements = [delivery.ack() for delivery in deliveries]
        while True:
            try:
                outcomes = await bounded(source.settle(settlements), self._origin.queue)
            except SourceUnavailable as exc:
                if monotonic() > deadline:
                    raise MoveError(
                        f"{exc}; {_messages(len(deliveries))} may be in both queues: "
                        f"{self._target.queue!r} has them, {self._origin.queue!r} doesn't know"
                    ) from exc
            else:
                self.doubled += sum(outcome is Settled.LOST for outcome in outcomes)
                return
            await asyncio.sleep(_ACK_PAUSE)
            with suppress(SourceUnavailable):
                await bounded(source.close(), self._origin.queue)
                await bounded(source.open(), self._origin.queue)

    async def _release(self, deliveries: Sequence[Delivery]) -> None:
        """Put back what was not moved; what can't be comes back when its lease ends."""
        settlements: list[Settlement] = [delivery.release() for delivery in deliveries]
        with suppress(SourceError):
            await bounded(self._origin.source.settle(settlements), self._origin.queue)

    async def _renew(self, deliveries: Sequence[Delivery]) -> None:
        lease = self._origin.source.lease
        while lease is not None:
            await asyncio.sleep(lease / 3)
            with suppress(SourceError):  # settling tells what is lost
                await bounded(self._origin.source.keep_alive(deliveries), self._origin.queue)

    def _outgoing(self, delivery: Delivery) -> Outgoing:
        headers = delivery.headers if self._target.source.capabilities.headers else {}
        self.without_headers += bool(delivery.headers) and not headers
        return Outgoing(body=self._body(delivery), message_id=self._message_id(delivery), headers=headers)

    def _body(self, delivery: Delivery) -> bytes:
        """Return what the target gets: the same bytes, but signed for the target if they are signed for the origin."""
        origin, target = self._signers
        return delivery.body if origin is None or target is None else origin.resign(delivery.body, target)

    def _message_id(self, delivery: Delivery) -> str:
        """Return the task's own id, as its sender gave it; a broker's name for a message may be another's elsewhere."""
        if isinstance(self._origin.codec, JsonCodec):
            with suppress(MessageError):
                return self._origin.codec.decode(delivery).id
        return new_message_id()

    def _is_too_large(self, delivery: Delivery) -> bool:
        return len(self._body(delivery)) > self._target.max_message_size


def _signer(place: Place) -> Signer | None:
    return place.codec.signer if isinstance(place.codec, JsonCodec) else None


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"
