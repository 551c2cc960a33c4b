"""Publisher: sends with confirms, many on their way at once, on a connection of its own. Imports the client library.

Its own connection, since a broker short of memory stops reading from connections that publish: settlements must not
wait behind messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pika import spec

from qbridge import SourceError, SourceFull, SourceUnavailable
from qbridge_rabbitmq.faults import translate
from qbridge_rabbitmq.frames import content_frames, publish_frame
from qbridge_rabbitmq.link import Channel, Link
from qbridge_rabbitmq.silences import Silences

__all__ = ["Batch", "Letter", "Publisher"]

#: Messages, and bytes, that are written before their confirms are waited for; two such batches are on their way.
_MOST_LETTERS = 500
_MOST_BYTES = 4 * 1024 * 1024

#: Seconds that a sender waits for a broker that takes nothing.
_BLOCKED_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Letter:
    """One message and where it goes.

    Attributes:
        queue: The queue, or the routing key of `exchange`.
        body: Its bytes.
        properties: Its properties, which must have a message_id.
        exchange: "" sends to the queue directly.
    """

    queue: str
    body: bytes
    properties: Any
    exchange: str = ""


class Batch:
    """Messages on their way together.

    Attributes:
        letters: The messages.
        done: Ends when all are confirmed, returned or refused; fails if the channel is lost before.
        returned: Positions of those that no queue took.
        refused: Positions of those that their queue had no room for.
    """

    __slots__ = ("_left", "done", "letters", "refused", "returned")

    def __init__(self, letters: Sequence[Letter]) -> None:
        self.letters = letters
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting any more when it fails.
        self.done.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.returned: set[int] = set()
        self.refused: set[int] = set()
        self._left = len(letters)

    @property
    def failed(self) -> set[int]:
        """Positions of what the broker has not taken, of a batch that is done."""
        return self.returned | self.refused

    def settle(self, position: int, *, is_refused: bool) -> None:
        """Take a confirm."""
        if is_refused:
            self.refused.add(position)
        self._left -= 1
        if self._left == 0 and not self.done.done():
            self.done.set_result(None)

    def raise_if_failed(self) -> None:
        """Raise the contract's error if the broker has not taken all.

        Raises:
            SourceFull: A queue is at its length limit.
            SourceUnavailable: A queue isn't there.
        """
        if self.returned:
            queue = self.letters[min(self.returned)].queue
            raise SourceUnavailable(f"RabbitMQ has no queue {queue!r} any more; it is made anew with the next opening")
        if self.refused:
            queue = self.letters[min(self.refused)].queue
            raise SourceFull(f"RabbitMQ refuses messages for the queue {queue!r}: it is at its length limit")


class Publisher:
    """Publishes to queues. Belongs to the loop that calls it; its connection is made by its first use.

    Args:
        connect: Makes an unopened link.
        timeout: Seconds within which the broker must confirm.
        silences: Is told of queues that don't, or refuse.
    """

    def __init__(self, connect: Callable[[], Link], timeout: float, silences: Silences) -> None:
        self._connect = connect
        self._timeout = timeout
        self._silences = silences
        self._opening = asyncio.Lock()
        self._link: Link | None = None
        self._channel: Channel | None = None
        self._number = 0  # the channel counts what it publishes from 1, and the broker confirms by these numbers
        self._pending: dict[int, tuple[Batch, int]] = {}  # in the order of their numbers
        self._stuck: asyncio.Future[None] | None = None  # ends when the broker has blocked us for too long
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def publish(self, letters: Sequence[Letter]) -> None:
        """Send messages in order; return when the broker has all of them.

        Raises:
            SourceFull: The broker takes nothing for want of memory or disk, or a queue is full. Some of the messages
                may have been taken, or be taken later.
            SourceUnavailable: The connection is lost, or a queue isn't there.
        """
        before: Batch | None = None
        for chunk in _chunks(letters):
            batch = await self.start(chunk)
            if before is not None:
                await self.finish(before)
            before = batch
        if before is not None:
            await self.finish(before)

    async def start(self, letters: Sequence[Letter], *, may_wait: bool = True) -> Batch:
        """Write messages and return them on their way.

        Args:
            letters: At least one.
            may_wait: Wait for a broker that takes nothing, and give up; otherwise write all the same.

        Raises:
            SourceError: As `publish`.
        """
        channel = await self._ready()
        if may_wait and not self._flowing.is_set():
            try:
                async with asyncio.timeout(_BLOCKED_PATIENCE):
                    await self._flowing.wait()
            except TimeoutError:
                raise self._blocked() from None
            channel = await self._ready()
        batch = Batch(letters)
        try:
            frames = _frames(channel, letters)
        except Exception as exc:  # something can't be said in AMQP: nothing of the batch is written
            raise translate(exc, channel.link.where, "publishing") from exc
        channel.cast("write", frames, doing="publishing")
        for position in range(len(letters)):
            self._number += 1
            self._pending[self._number] = (batch, position)
        return batch

    async def finish(self, batch: Batch) -> None:
        """Wait until the broker has taken a batch.

        Raises:
            SourceError: As `publish`.
        """
        await self.wait(batch)
        batch.raise_if_failed()

    async def wait(self, batch: Batch) -> None:
        """Wait until a batch is done, whatever came of it.

        Raises:
            SourceFull: The broker takes nothing; the batch may be taken later.
            SourceUnavailable: The connection is lost, or no confirm came in time.
        """
        if not batch.done.done():
            stuck = self._stuck
            waits = {batch.done} if stuck is None else {batch.done, stuck}
            await asyncio.wait(waits, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
        if batch.done.done():
            batch.done.result()
            refusing = {batch.letters[position].queue for position in batch.refused}
            self._silences.note(refusing)
            if self._silences:
                self._silences.end({letter.queue for letter in batch.letters} - refusing)
        elif self._stuck is not None and self._stuck.done():
            raise self._blocked()
        else:
            where = self._link.where if self._link is not None else ""
            self._silences.note(self._silent(batch))
            if self._link is not None:
                self._link.abort()
            raise SourceUnavailable(f"RabbitMQ at {where} confirmed nothing within {self._timeout:g} s")

    async def close(self) -> None:
        """Disconnect. Takes a second at most; idempotent."""
        self._is_closed = True
        self._forget()
        link, self._link, self._channel = self._link, None, None
        if link is not None:
            await link.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._is_closed = True
        self._forget()
        if self._link is not None:
            self._link.abort()

    async def _ready(self) -> Channel:
        if self._channel is not None and self._channel.is_open:
            return self._channel
        async with self._opening:
            if self._channel is not None and self._channel.is_open:
                return self._channel
            if self._is_closed:
                raise SourceUnavailable("the publishing connection to RabbitMQ is closed")
            if self._link is None or not self._link.is_open:
                self._forget()
                self._link = self._connect()
                self._stuck = asyncio.get_running_loop().create_future()
                self._link.on_blocked = self._on_blocked
                await self._link.open()
            self._number = 0
            channel = await self._link.channel()
            channel.on_lost = self._fail
            channel.raw.add_on_return_callback(self._on_returned)
            await channel.call("confirm_delivery", self._on_confirmed, doing="asking for confirms")
            self._channel = channel
            return channel

    def _silent(self, batch: Batch) -> set[str]:
        """Return the queues that have confirmed nothing of a batch."""
        waiting = {position for other, position in self._pending.values() if other is batch}
        heard = {letter.queue for position, letter in enumerate(batch.letters) if position not in waiting}
        return {batch.letters[position].queue for position in waiting} - heard

    def _on_confirmed(self, frame: Any) -> None:
        method = frame.method
        number: int = method.delivery_tag
        is_refused = isinstance(method, spec.Basic.Nack)
        if not method.multiple:
            self._settle(number, is_refused)
            return
        covered = []
        for pending in self._pending:
            if pending > number:
                break
            covered.append(pending)
        for pending in covered:
            self._settle(pending, is_refused)

    def _settle(self, number: int, is_refused: bool) -> None:
        entry = self._pending.pop(number, None)
        if entry is not None:
            entry[0].settle(entry[1], is_refused=is_refused)

    def _on_returned(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        # A return has no number. Its confirm comes after it.
        for batch, position in self._pending.values():
            letter = batch.letters[position]
            if letter.properties.message_id == properties.message_id and letter.queue == method.routing_key:
                batch.returned.add(position)

    def _fail(self, fault: SourceError) -> None:
        pending, self._pending = self._pending, {}
        for batch, _ in pending.values():
            if not batch.done.done():
                batch.done.set_exception(type(fault)(str(fault)))

    def _on_blocked(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._link is not None and self._link.is_blocked:
            self._flowing.clear()
            self._timer = asyncio.get_running_loop().call_later(_BLOCKED_PATIENCE, self._on_stuck)
        else:
            self._flowing.set()
            if self._stuck is None or self._stuck.done():
                self._stuck = asyncio.get_running_loop().create_future()

    def _on_stuck(self) -> None:
        if self._stuck is not None and not self._stuck.done():
            self._stuck.set_result(None)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flowing.set()
        self._fail(SourceUnavailable("the publishing connection to RabbitMQ was closed"))

    def _blocked(self) -> SourceFull:
        where = self._link.where if self._link is not None else ""
        return SourceFull(
            f"RabbitMQ at {where} takes no messages: it is short of memory or of disk space: give it more, or let "
            "workers drain it"
        )


def _frames(channel: Channel, letters: Sequence[Letter]) -> list[bytes]:
    number, size = channel.raw.channel_number, channel.link.frame_size
    frames: list[bytes] = []
    for letter in letters:
        frames.append(publish_frame(number, letter.exchange, letter.queue))
        frames += content_frames(number, letter.properties, letter.body, frame_size=size)
    return frames


def _chunks(letters: Sequence[Letter]) -> list[list[Letter]]:
    chunks: list[list[Letter]] = []
    size = 0
    for letter in letters:
        if not chunks or len(chunks[-1]) == _MOST_LETTERS or size + len(letter.body) > _MOST_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(letter)
        size += len(letter.body)
    return chunks
