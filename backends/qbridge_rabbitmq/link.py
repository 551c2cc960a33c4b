"""Link and Channel: one AMQP connection, and its channels, whose calls are awaited. Imports the client library.

The client library answers through callbacks, or not at all when the channel is closed instead. Here each call is a
future that ends: with the answer, with the reason for which the channel or the connection was closed, or with a time
limit. A lost connection stays lost until the source is opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pika

from qbridge import SourceClosed, SourceError, SourceMisconfigured, SourceUnavailable
from qbridge_rabbitmq.faults import has_answered, translate
from qbridge_rabbitmq.options import RabbitOptions
from qbridge_rabbitmq.raw import RawConnection
from qbridge_rabbitmq.tls import diagnose, make_context

__all__ = ["Channel", "Link"]

log = logging.getLogger(__name__)

#: Seconds for a connection to say good-bye before it is cut, and to be gone then.
_FAREWELL = 0.5


class Channel:
    """One channel of a link. Belongs to the link's loop.

    Args:
        link: An open link.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.raw: Any = None
        #: Called once, with the reason, when the channel is lost; not when it is closed from here.
        self.on_lost: Callable[[SourceError], None] | None = None
        self._lost: SourceError | None = None
        self._cause: BaseException | None = None
        self._waiting: set[asyncio.Future[Any]] = set()

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._lost is None

    @property
    def cause(self) -> BaseException | None:
        """The client library's own reason for which the channel was lost."""
        return self._cause

    async def open(self) -> None:
        """Open it, once.

        Raises:
            SourceUnavailable: The connection is lost.
        """
        await self._wait(self._open_raw, "opening a channel")

    def _open_raw(self, answer: Callable[[Any], None]) -> None:
        self.raw = self.link.raw().channel(on_open_callback=answer)
        self.raw.add_on_close_callback(self._on_closed)

    def raise_if_lost(self) -> None:
        """Raise the contract's error if the channel can't be used any more."""
        if self._lost is not None:
            raise _again(self._lost)

    async def call(self, method: str, *arguments: Any, doing: str, **named: Any) -> Any:
        """Call a method of the client library's channel; return the method of the broker's answer.

        Args:
            method: Its name, such as `queue_declare`; it must take a `callback`.
            arguments: What it takes.
            doing: What is being done, for messages.
            named: What it takes by name.

        Raises:
            SourceError: The contract's error for whatever went wrong.
        """
        self.raise_if_lost()
        function = getattr(self.raw, method)
        return await self._wait(lambda answer: function(*arguments, callback=answer, **named), doing)

    def cast(self, method: str, *arguments: Any, doing: str, **named: Any) -> None:
        """Call a method that has no answer.

        Raises:
            SourceError: The contract's error for whatever went wrong.
        """
        self.raise_if_lost()
        try:
            getattr(self.raw, method)(*arguments, **named)
        except Exception as exc:
            raise translate(exc, self.link.where, doing) from exc

    async def close(self) -> None:
        """Close it, unless it is lost; the connection stays. Never raises a SourceError."""
        if self.raw is None or not self.raw.is_open:
            return
        self.on_lost = None
        self._lost = SourceClosed("the channel to RabbitMQ is closed")
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_closed(*_: Any) -> None:
            if not closed.done():
                closed.set_result(None)

        self.raw.add_on_close_callback(on_closed)
        with contextlib.suppress(pika.exceptions.AMQPError):
            self.raw.close()
            await asyncio.wait({closed}, timeout=_FAREWELL)

    async def _wait(self, start: Callable[[Callable[[Any], None]], None], doing: str) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answer(frame: Any) -> None:
            if not future.done():
                future.set_result(getattr(frame, "method", None))

        self._waiting.add(future)
        try:
            start(answer)
            async with asyncio.timeout(self.link.timeout):
                return await future
        except SourceError:
            raise
        except (pika.exceptions.AMQPError, TimeoutError, ValueError, TypeError) as exc:
            raise translate(exc, self.link.where, doing) from exc
        finally:
            self._waiting.discard(future)
            if future.done() and not future.cancelled():
                future.exception()  # so that nobody is told of one that was not awaited

    def _on_closed(self, _channel: Any, reason: BaseException) -> None:
        if self._lost is None:
            self._cause = reason
            self._lost = translate(reason, self.link.where, "working")
            if self.on_lost is not None:
                self.on_lost(self._lost)
        for future in self._waiting:
            if not future.done():
                future.set_exception(_again(self._lost))


class Link:
    """One connection. Belongs to the loop that opens it.

    Args:
        options: Where the broker is, and how patient to be with it.
        purpose: What operators see it named in the broker's list of connections.
    """

    def __init__(self, options: RabbitOptions, purpose: str) -> None:
        self.where = str(options.address())
        self.timeout = options.command_timeout
        #: Whether the broker takes nothing that is published.
        self.is_blocked = False
        #: Called when `is_blocked` changes.
        self.on_blocked: Callable[[], None] | None = None
        self._options = options
        self._purpose = purpose
        self._connection: Any = None
        self._opened: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._lost: SourceError | None = SourceClosed("the connection to RabbitMQ isn't open")

    @property
    def version(self) -> tuple[int, ...]:
        """The broker's version, such as (3, 10, 8); () if it doesn't say."""
        properties = self._connection.server_properties or {}
        parts = str(properties.get("version", "")).split("+")[0].split("-")[0].split(".")
        return tuple(int(part) for part in parts if part.isdigit())

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._lost is None

    @property
    def frame_size(self) -> int:
        """Bytes of the largest frame, and so of a message's headers."""
        return int(self._connection.params.frame_max or 131072)

    async def open(self) -> None:
        """Connect and log in, once.

        Raises:
            SourceUnavailable: The broker can't be reached, or is not ready, within the time limit.
            SourceMisconfigured: It refuses the credentials, the virtual host or the client's certificate, its own can't
                be verified, or only one side speaks TLS.
        """
        loop = asyncio.get_running_loop()
        self._opened, self._ended = loop.create_future(), loop.create_future()
        try:
            parameters = _parameters(self._options, self._purpose)
            self._connection = RawConnection(
                parameters,
                on_open_callback=self._on_opened,
                on_open_error_callback=self._on_ended,
                on_close_callback=self._on_ended,
                custom_ioloop=loop,
            )
            async with asyncio.timeout(self._options.connect_timeout):
                await self._opened
        except SourceMisconfigured:
            raise
        except Exception as exc:
            await self.close()
            raise await self._explained(exc) from exc
        except BaseException:
            self.abort()
            raise
        self._connection.add_on_connection_blocked_callback(lambda *_: self._set_blocked(True))
        self._connection.add_on_connection_unblocked_callback(lambda *_: self._set_blocked(False))

    def raw(self) -> Any:
        """Return the client library's connection.

        Raises:
            SourceError: It is lost, or was never open.
        """
        self.raise_if_lost()
        return self._connection

    def raise_if_lost(self) -> None:
        """Raise the contract's error if the connection isn't there (any more)."""
        if self._lost is not None:
            raise _again(self._lost)

    async def channel(self) -> Channel:
        """Open a channel.

        Raises:
            SourceUnavailable: The connection is lost.
        """
        channel = Channel(self)
        await channel.open()
        return channel

    async def close(self) -> None:
        """Say good-bye, and cut the connection if the broker doesn't answer. Takes a second at most; idempotent."""
        if self._connection is None or self._ended is None:
            return
        try:
            if self._lost is None:
                self._lost = SourceClosed("the connection to RabbitMQ is closed")
                with contextlib.suppress(pika.exceptions.AMQPError):
                    self._connection.close()
                await asyncio.wait({self._ended}, timeout=_FAREWELL)
        finally:
            self.abort()
        await asyncio.wait({self._ended}, timeout=_FAREWELL)

    def abort(self) -> None:
        """Cut the connection. What the client library still has to do takes a turn of the loop."""
        if self._lost is None:
            self._lost = SourceClosed("the connection to RabbitMQ is closed")
        if self._connection is None or self._ended is None or self._ended.done() or self._connection.is_closed:
            return
        # Its own close() would wait for a broker that may be gone, and leave the socket and the consumer alive.
        with contextlib.suppress(Exception):
            self._connection._terminate_stream(pika.exceptions.AMQPConnectionError("cut by its owner"))

    async def _explained(self, exc: Exception) -> SourceError:
        fault = translate(exc, self.where, "connecting")
        if isinstance(fault, SourceUnavailable) and has_answered(exc):
            remedy = await diagnose(self._options)
            if remedy is not None:
                return SourceMisconfigured(f"RabbitMQ at {self.where}, connecting: {remedy}")
        return fault

    def _on_opened(self, _connection: Any) -> None:
        if self._opened is not None and not self._opened.done():
            self._lost = None
            self._opened.set_result(None)

    def _on_ended(self, _connection: Any, reason: Any) -> None:
        self._set_blocked(False)
        if self._lost is None:
            self._lost = translate(reason, self.where, "working")
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(reason)
            self._opened.exception()  # so that nobody is told of one that was not awaited
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _set_blocked(self, is_blocked: bool) -> None:
        if self.is_blocked != is_blocked:
            self.is_blocked = is_blocked
            if self.on_blocked is not None:
                self.on_blocked()


def _again(fault: SourceError) -> SourceError:
    """Return an error like `fault`: one that is raised twice would collect the tracebacks of both."""
    again = type(fault)(str(fault))
    again.__cause__ = fault.__cause__
    return again


def _parameters(options: RabbitOptions, purpose: str) -> Any:
    address = options.address()
    context = make_context(options)
    tls: dict[str, Any] = (
        {} if context is None else {"ssl_options": pika.SSLOptions(context, options.server_name or address.host)}
    )
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(
            "guest" if address.username is None else address.username,
            "guest" if address.password is None else address.password,
            erase_on_connect=False,
        ),
        heartbeat=int(options.heartbeat),
        # A broker short of memory may be so for hours. All that waits for it is bounded elsewhere, and the end of the
        # connection would bring back what is held, counted as a crash.
        blocked_connection_timeout=None,
        connection_attempts=1,
        socket_timeout=options.connect_timeout,
        stack_timeout=options.connect_timeout,
        client_properties={"connection_name": purpose},
        **tls,
    )
