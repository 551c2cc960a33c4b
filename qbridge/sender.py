"""Sender: task messages to one queue; sends that overlap share a round trip."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from time import monotonic

from qbridge.calls import call_within
from qbridge.codec import Codec
from qbridge.errors import BridgeStateError, MessageTooLargeError, SourceFull, SourceUnavailable
from qbridge.message import TaskMessage
from qbridge.source import Outgoing, QueueSource

__all__ = ["Sender"]

log = logging.getLogger(__name__)

#: Messages given to the broker in one call.
MAX_BATCH = 1000

#: Seconds that one call to the broker may take.
SEND_TIMEOUT = 30.0

#: Seconds that a call gets to end once it is cancelled, and a source to be dropped when no time is left.
_LAST_WORDS = 0.1


class Sender:
    """Sends to one queue through a source of its own. Belongs to one loop.

    The source is opened by the first send, and again by the next one after it was lost. Nothing is sent twice behind
    the caller's back: when the outcome is unknown the caller is told, and decides.

    Args:
        queue: The queue's name.
        source: A source that nobody else uses; the sender opens and closes it.
        codec: Writes the messages.
        max_message_size: Bytes that no message may exceed.
    """

    def __init__(self, queue: str, source: QueueSource, *, codec: Codec, max_message_size: int) -> None:
        self.queue = queue
        self._source = source
        self._codec = codec
        self._max_message_size = max_message_size
        self._waiting: deque[tuple[Sequence[Outgoing], asyncio.Future[None]]] = deque()
        self._flushing: asyncio.Task[None] | None = None
        self._is_open = False
        self._is_closed = False

    def encode(self, message: TaskMessage, delay: float) -> Outgoing:
        """Return a message ready to be sent.

        Raises:
            UndecodableMessageError: Its arguments can't be written by the queue's codec.
            MessageTooLargeError: It is over the queue's size limit.
            ValueError: The delay is negative or not finite, or the queue can't carry the delay or the headers.
        """
        if not 0 <= delay < float("inf"):
            raise ValueError(f"delay must be 0 or more seconds, not {delay!r}")
        if delay and not self._source.capabilities.delay:
            raise ValueError(f"queue {self.queue!r} can't delay messages: its broker has no such ability")
        body = self._codec.encode(message)
        if len(body) > self._max_message_size:
            raise MessageTooLargeError(len(body), self._max_message_size)
        outgoing = Outgoing(body=body, message_id=message.id, delay=delay)
        if message.headers and not self._codec.carries_headers:
            if not self._source.capabilities.headers:
                raise ValueError(f"queue {self.queue!r} can't carry headers: neither its codec nor its broker has any")
            outgoing.headers = message.headers
        return outgoing

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Return when the broker has all of the messages; their order is kept.

        Cancelling leaves it open whether they are sent.

        Raises:
            SourceFull: The broker has no room.
            SourceUnavailable: The broker can't be reached, or the outcome is unknown.
            SourceMisconfigured: The broker refuses what was configured.
        """
        if self._is_closed:
            raise BridgeStateError(f"queue {self.queue!r} is closed for sending")
        if not messages:
            return
        sent = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, sent))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name=f"send {self.queue}")
        await sent

    async def close(self, timeout: float = SEND_TIMEOUT) -> None:
        """Send what waits, and close the source, within `timeout` seconds. May be called twice.

        Those whose messages are not sent by then get `SourceUnavailable`, as the outcome is unknown.
        """
        self._is_closed = True
        until = monotonic() + timeout
        if self._flushing is not None:
            _, late = await asyncio.wait([self._flushing], timeout=timeout)
            for flushing in late:
                flushing.cancel()
                await asyncio.wait([flushing], timeout=_LAST_WORDS)
        await self._close_source(max(_LAST_WORDS, until - monotonic()))

    async def _flush(self) -> None:
        try:
            while self._waiting:
                await self._send_batch()
        finally:
            self._flushing = None
            _tell([sent for _, sent in self._waiting], self._cut_off())
            self._waiting.clear()

    async def _send_batch(self) -> None:
        batch: list[Outgoing] = []
        senders: list[asyncio.Future[None]] = []
        while self._waiting and (not batch or len(batch) + len(self._waiting[0][0]) <= MAX_BATCH):
            messages, sent = self._waiting.popleft()
            batch.extend(messages)
            senders.append(sent)
        error: Exception | None = None
        try:
            await call_within(SEND_TIMEOUT, self._deliver(batch), patience=_LAST_WORDS)
        except TimeoutError:
            error = SourceUnavailable(f"queue {self.queue!r} did not take the messages within {SEND_TIMEOUT:g} s")
        except asyncio.CancelledError:
            _tell(senders, self._cut_off())
            raise
        except Exception as exc:  # noqa: BLE001  # the border to the source: those who wait for it are told
            error = exc
        _tell(senders, error)
        if error is not None and not isinstance(error, SourceFull):
            await self._close_source(SEND_TIMEOUT)

    async def _deliver(self, batch: Sequence[Outgoing]) -> None:
        if not self._is_open:
            await self._source.open()
            self._is_open = True
        for start in range(0, len(batch), MAX_BATCH):
            await self._source.send(batch[start : start + MAX_BATCH])

    def _cut_off(self) -> SourceUnavailable:
        return SourceUnavailable(f"queue {self.queue!r} was closed before its broker had the messages")

    async def _close_source(self, timeout: float) -> None:
        self._is_open = False
        try:
            await call_within(timeout, self._source.close(), patience=_LAST_WORDS)
        except Exception as exc:  # noqa: BLE001  # nothing waits for it any more
            log.warning("sender's source did not close cleanly", extra={"queue": self.queue, "error": str(exc)})


def _tell(senders: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for sent in senders:
        if sent.done():  # its caller was cancelled
            continue
        if error is None:
            sent.set_result(None)
        else:
            sent.set_exception(error)
