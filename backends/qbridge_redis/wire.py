"""Wire: the bytes of one connection, commands out and replies in. Imports the client library, which packs and parses.

The client library's connection is not used: with its streams, and the tasks and time limits for each command that they
need, a command cost 35 µs of processor time, and 12 like this; and importing it took 80 ms and 6 MB (November 2026,
CPython 3.11). Its pool would also reconnect and send again in silence.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import hiredis

__all__ = ["Command", "Replies", "ServerRefusal", "Wire"]

#: The words of one command.
Command = tuple[str | bytes | int | float, ...]

#: A reply for each command of a request; an error reply is a `ServerRefusal`.
Replies = list[Any]


class ServerRefusal(Exception):  # noqa: N818  # a reply like others
    """An error reply: the connection is well, the command was refused.

    Attributes:
        code: Its first word, such as `NOSCRIPT`.
        text: What it says to people, without a code that says no more than "error".
    """

    def __init__(self, reply: str) -> None:
        super().__init__(reply)

    @property
    def code(self) -> str:
        """Its first word, such as `NOSCRIPT`."""
        return str(self).partition(" ")[0]


class _Request:
    __slots__ = ("count", "deadline", "future", "replies")

    def __init__(self, count: int, deadline: float, future: asyncio.Future[Replies]) -> None:
        self.count = count
        self.deadline = deadline
        self.future = future
        self.replies: Replies = []


class Wire(asyncio.Protocol):
    """Sends each request at once and exactly once, and gives it its replies. Belongs to one loop.

    Args:
        on_lost: Called once, when the connection is gone, with what ended it; None if the server hung up. What still
            waits has to be failed by it, with `fail`.
    """

    def __init__(self, on_lost: Callable[[Exception | None], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=ServerRefusal, notEnoughData=self)
        self._pending: deque[_Request] = deque()
        self._unheard: _Request | None = None  # the latest whose caller was cancelled before its replies came
        self._transport: asyncio.WriteTransport | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    def request(self, commands: tuple[Command, ...], timeout: float) -> asyncio.Future[Replies]:
        """Send commands back to back; return the future of their replies. Cancelling it is harmless.

        Args:
            commands: Each as words.
            timeout: Seconds until the last reply; then the connection is lost.
        """
        assert self._transport is not None
        pack = hiredis.pack_command
        deadline = self._loop.time() + timeout
        request = _Request(len(commands), deadline, self._loop.create_future())
        self._pending.append(request)
        # Its stub names a tuple of one word.
        self._transport.write(
            pack(commands[0]) if len(commands) == 1 else b"".join([pack(command) for command in commands])  # type: ignore[arg-type]
        )
        if deadline < self._alarm_at:
            self._set_alarm(deadline)
        return request.future

    def listen_again(self, cancelled: asyncio.Future[Replies]) -> asyncio.Future[Replies]:
        """Return a future of the replies to a request whose own future was cancelled, or that one if it wasn't.

        To be called by the cancelled caller, at once: replies that nobody hears are kept until others are.
        """
        for request in (*self._pending, self._unheard):
            if request is not None and request.future is cancelled and cancelled.cancelled():
                request.future = self._loop.create_future()
                if len(request.replies) == request.count:
                    request.future.set_result(request.replies)
                return request.future
        return cancelled

    def fail(self, fault: Callable[[], Exception]) -> None:
        """Give all requests that still wait an error each."""
        while self._pending:
            future = self._pending.popleft().future
            if not future.done():
                future.set_exception(fault())
                future.exception()  # marks it as seen: a caller that was cancelled never looks

    def abort(self) -> None:
        """Cut the connection, and wait for nothing. May be called twice."""
        self._set_alarm(math.inf)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the connection (`asyncio.Protocol`)."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is of no class of asyncio's

    def data_received(self, data: bytes) -> None:
        """Read replies, and hand them to those who wait for them (`asyncio.Protocol`)."""
        reader, pending = self._reader, self._pending
        try:
            reader.feed(data)
            while pending:
                request = pending[0]
                reply = reader.gets()
                if reply is self:
                    return
                request.replies.append(reply)
                if len(request.replies) == request.count:
                    pending.popleft()
                    if not request.future.done():
                        request.future.set_result(request.replies)
                    else:
                        self._unheard = request
        except hiredis.HiredisError as exc:
            self._end(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell of the end (`asyncio.Protocol`)."""
        self._set_alarm(math.inf)
        on_lost, self._on_lost = self._on_lost, _nothing
        on_lost(exc)

    def _end(self, exc: Exception) -> None:
        on_lost, self._on_lost = self._on_lost, _nothing
        on_lost(exc)
        self.abort()

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_at(at, self._ring) if at < math.inf else None

    def _ring(self) -> None:
        # One timer for all requests, set anew when it rings: most end long before it does.
        deadline = min((request.deadline for request in self._pending), default=math.inf)
        if deadline <= self._loop.time():
            self._end(TimeoutError())
        else:
            self._set_alarm(deadline)


def _nothing(_: Exception | None) -> None:
    """Tell nobody: those who wanted to know were told."""
