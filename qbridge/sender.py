"""Sender: task messages to one queue; sends that overlap share a round trip."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from math import inf
from time import monotonic
from typing import Protocol

from qbridge.calls import call_within, leave_behind
from qbridge.codec import Codec
from qbridge.errors import BridgeStateError, MessageTooLargeError, SourceFull, SourceUnavailable
from qbridge.message import MessageFields
from qbridge.source import NO_HEADERS, Outgoing, QueueSource

__all__ = ["SEND_TIMEOUT", "Sender", "Waiter"]

log = logging.getLogger(__name__)

#: Messages given to the broker in one call, and bytes of their bodies; a single message may be larger.
MAX_BATCH, MAX_BYTES = 1000, 4 * 1024 * 1024

#: Messages that are encoded in one go: enough to share what is done for all of them.
_ENCODED_TOGETHER = 50

#: Seconds that one call to the broker may take.
SEND_TIMEOUT = 30.0

#: Seconds that a call gets to end once it is cancelled, and a source to be dropped when no time is left.
_LAST_WORDS = 0.1


class Waiter(Protocol):
    """Who is told how a send has ended: a future, or what stands for one."""

    def done(self) -> bool:
        """Return whether nobody needs to be told any more."""

    def set_result(self, result: None, /) -> None:
        """The broker has the messages."""

    def set_exception(self, exception: Exception, /) -> None:
        """It has not, or nobody knows."""


@dataclass(slots=True, eq=False)
class _Batch:
    """What goes in one call, as a rule, and those who wait for it.

    Only the messages of one caller may be more than fit in a call.
    """

    messages: list[Outgoing] = field(default_factory=list)
    size: int = 0
    waiters: list[Waiter] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Run:
    """A task that sends batch after batch, from a first request until none waits.

    Attributes:
        loop: Where it runs.
        task: The task.
        batch: What is being sent.
        is_late: Whether the call under way was cancelled because it took too long.
    """

    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[None] | None = None
    batch: _Batch = field(default_factory=_Batch)
    is_late: bool = False


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
        self._waiting: deque[_Batch] = deque()
        self._run: _Run | None = None
        self._is_open = False
        self._is_closed = False

    def encode(self, messages: Iterable[MessageFields], delay: float) -> list[Outgoing]:
        """Return messages ready to be sent, in order. Called from any thread.

        Raises:
            UndecodableMessageError: The arguments of one can't be written by the queue's codec.
            MessageTooLargeError: One is over the queue's size limit.
            ValueError: The delay is negative or not finite, or the queue can't carry the delay or the headers.
        """
        if delay:
            self._check(delay)
        # Messages that are made one by one are gone again before the interpreter's collector of cycles looks at them:
        # of 1000 each takes 0.5 µs less (November 2026, CPython 3.11).
        ready: list[Outgoing] = []
        rest = iter(messages)
        while some := list(islice(rest, _ENCODED_TOGETHER)):
            bodies = self._codec.write_all(some)
            if (largest := max(map(len, bodies))) > self._max_message_size:
                raise MessageTooLargeError(largest, self._max_message_size)
            headers_of = repeat(NO_HEADERS) if self._codec.carries_headers else map(self._headers_of, some)
            ready += [
                Outgoing(body, fields["id"], delay, headers)
                for body, fields, headers in zip(bodies, some, headers_of, strict=False)
            ]
        return ready

    def encode_one(self, fields: MessageFields, delay: float) -> Outgoing:
        """Return one message ready to be sent: like `encode`, in less than half the time."""
        if delay:
            self._check(delay)
        body = self._codec.write(fields)
        if len(body) > self._max_message_size:
            raise MessageTooLargeError(len(body), self._max_message_size)
        headers = NO_HEADERS if self._codec.carries_headers else self._headers_of(fields)
        return Outgoing(body, fields["id"], delay, headers)

    def _check(self, delay: float) -> None:
        if not 0 <= delay < inf:
            raise ValueError(f"delay must be 0 or more seconds, not {delay!r}")
        if not self._source.capabilities.delay:
            raise ValueError(f"queue {self.queue!r} can't delay messages: its broker has no such ability")

    def _headers_of(self, fields: MessageFields) -> Mapping[str, str]:
        """Return the headers that travel beside the body."""
        if fields["headers"] and not self._source.capabilities.headers:
            raise ValueError(f"queue {self.queue!r} can't carry headers: neither its codec nor its broker has any")
        return fields["headers"]

    def send(self, messages: Sequence[Outgoing]) -> asyncio.Future[None]:
        """Return a future of the moment when the broker has all of the messages; their order is kept.

        What is sent in the same turn of the loop, or while a call is under way, goes in one call, within bounds. There
        is no timer: what is sent alone goes at once. Cancelling the future leaves it open whether they are sent, and
        concerns nobody else's.

        Raises:
            BridgeStateError: The sender is closed.

        Errors of the future:
            SourceFull: The broker has no room.
            SourceUnavailable: The broker can't be reached, or the outcome is unknown.
            SourceMisconfigured: The broker refuses what was configured.
        """
        run = self._run
        sent = (asyncio.get_running_loop() if run is None else run.loop).create_future()
        self.submit(messages, sent)
        return sent

    def submit(self, messages: Sequence[Outgoing], sent: Waiter) -> None:
        """Send as `send` does, and tell another waiter than a future of it.

        Raises:
            BridgeStateError: The sender is closed.
        """
        if self._is_closed:
            raise BridgeStateError(f"queue {self.queue!r} is closed for sending")
        if not messages:
            sent.set_result(None)
            return
        size = len(messages[0].body) if len(messages) == 1 else sum([len(message.body) for message in messages])
        # They go with those that wait already, if all together fit in one call; none are torn.
        batch = self._waiting[-1] if self._waiting else None
        if batch is None or len(batch.messages) + len(messages) > MAX_BATCH or batch.size + size > MAX_BYTES:
            batch = _Batch()
            self._waiting.append(batch)
        batch.messages += messages
        batch.size += size
        batch.waiters.append(sent)
        if self._run is None:
            self._start()

    async def close(self, timeout: float = SEND_TIMEOUT) -> None:
        """Send what waits, and close the source, within `timeout` seconds. May be called twice.

        Those whose messages are not sent by then get `SourceUnavailable`, as the outcome is unknown.
        """
        self._is_closed = True
        until = monotonic() + timeout
        while self._run is not None and (left := until - monotonic()) > 0:
            await asyncio.wait([_task_of(self._run)], timeout=left)
        if (run := self._run) is not None:
            self._run = None
            unsent = self._take_all(run)
            task = _task_of(run)
            task.cancel()
            await asyncio.wait([task], timeout=_LAST_WORDS)
            leave_behind(task)
            _tell(unsent, SourceUnavailable(f"queue {self.queue!r} was closed before its broker had the messages"))
        await self._close_source(max(_LAST_WORDS, until - monotonic()))

    def _start(self, *, is_lost: bool = False) -> None:
        """Let a task send what waits; the requests of this turn of the loop are all there when it begins."""
        run = self._run = _Run(asyncio.get_running_loop())
        run.task = run.loop.create_task(self._flush(run, is_lost), name=f"send {self.queue}")

    async def _flush(self, run: _Run, is_lost: bool) -> None:
        run.task = asyncio.current_task()  # an eager one runs before it is returned
        # The calls are awaited right here, and not in tasks of their own: with these a lone send took 70 µs more of
        # processor time (November 2026, CPython 3.11). So whatever is awaited may end when this run is over.
        try:
            if is_lost:
                await self._close_source(SEND_TIMEOUT)
            while self._waiting and run is self._run:
                run.batch = self._waiting.popleft()
                error = await self._send_batch(run)
                if run is not self._run:
                    return
                _tell(run.batch.waiters, error)
                if error is not None and not isinstance(error, SourceFull):
                    await self._close_source(SEND_TIMEOUT)
        finally:
            if run is self._run:
                self._run = None
                _tell(self._take_all(run), SourceUnavailable(f"sending to queue {self.queue!r} was cancelled"))

    def _take_all(self, run: _Run) -> list[Waiter]:
        """Return all who wait, and forget what they wait for."""
        waiters = [waiter for batch in (run.batch, *self._waiting) for waiter in batch.waiters]
        self._waiting.clear()
        return waiters

    async def _send_batch(self, run: _Run) -> Exception | None:
        """Make the calls for a run's batch; return what went wrong."""
        task = _task_of(run)
        timer = run.loop.call_later(SEND_TIMEOUT, self._interrupt, run)
        try:
            if not self._is_open:
                await self._source.open()
                if run is not self._run:  # left behind, and another run has its own connection
                    return None
                self._is_open = True
            for messages in _calls(run.batch):
                await self._source.send(messages)
                if run is not self._run:
                    return None
        except asyncio.CancelledError:
            if run.is_late:
                return self._overdue()
            if task.cancelling():
                raise
            return SourceUnavailable(f"queue {self.queue!r}: sending was cancelled from within")
        except Exception as exc:  # noqa: BLE001  # the border to the source: those who wait for it are told
            return self._overdue() if run.is_late else exc
        finally:
            timer.cancel()
            if run.is_late:
                run.is_late = False
                task.uncancel()
        return None

    def _interrupt(self, run: _Run) -> None:
        """Cancel a call that takes too long, and go on without it if it ignores that."""
        run.is_late = True
        _task_of(run).cancel()
        run.loop.call_later(_LAST_WORDS, self._give_up, run, run.batch)

    def _give_up(self, run: _Run, batch: _Batch) -> None:
        if run is self._run and run.is_late and run.batch is batch:
            leave_behind(_task_of(run))
            _tell(batch.waiters, self._overdue())
            self._start(is_lost=True)

    def _overdue(self) -> SourceUnavailable:
        return SourceUnavailable(f"queue {self.queue!r} did not take the messages within {SEND_TIMEOUT:g} s")

    async def _close_source(self, timeout: float) -> None:
        self._is_open = False
        try:
            await call_within(timeout, self._source.close(), patience=_LAST_WORDS)
        except Exception as exc:  # noqa: BLE001  # nothing waits for it any more
            log.warning("sender's source did not close cleanly", extra={"queue": self.queue, "error": str(exc)})


def _task_of(run: _Run) -> asyncio.Task[None]:
    assert run.task is not None
    return run.task


def _calls(batch: _Batch) -> Iterator[Sequence[Outgoing]]:
    """Yield what to give to the broker in one call each, in order."""
    messages = batch.messages
    if len(messages) <= MAX_BATCH and batch.size <= MAX_BYTES:
        yield messages
        return
    start = size = 0
    for position, message in enumerate(messages):
        size += len(message.body)
        if position > start and (position - start == MAX_BATCH or size > MAX_BYTES):
            yield messages[start:position]
            start, size = position, len(message.body)
    yield messages[start:]


def _tell(waiters: Iterable[Waiter], error: Exception | None) -> None:
    for waiter in waiters:
        if waiter.done():  # its caller was cancelled
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
