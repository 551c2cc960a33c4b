"""Link: one connection to a Redis server, that is never made anew in silence. Imports the client library.

A caller that is cancelled merely stops listening, and a lost connection stays lost until the source is opened again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any

from qbridge import SourceClosed, SourceError, SourceMisconfigured, SourceUnavailable
from qbridge_redis.faults import translate
from qbridge_redis.masking import mask
from qbridge_redis.options import RedisAddress
from qbridge_redis.scripts import Script
from qbridge_redis.tls import diagnose, tls_context
from qbridge_redis.wire import Command, Replies, ServerRefusal, Wire

__all__ = ["Command", "Link", "Replies", "ServerRefusal"]

#: Seconds without a sign of life after which TCP asks, between its questions, and how many it asks: a peer that is
#: gone is noticed after 45 s even where nothing is sent.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Link:
    """One connection. Belongs to the loop that opens it.

    Requests are sent in the order of the calls, at once, each exactly once. Every one ends within its time limit: with
    its replies, or with the contract's error.

    Args:
        address: Where the server is.
        connect_timeout: Seconds for connecting and logging in.
        timeout: Seconds for a command, where the call doesn't say.
    """

    def __init__(self, address: RedisAddress, *, connect_timeout: float, timeout: float) -> None:
        self.where = str(address)
        self.timeout = timeout
        self._address = address
        self._connect_timeout = connect_timeout
        self._wire: Wire | None = None
        self._lost: Callable[[], SourceError] | None = _not_open

    async def open(self) -> None:
        """Connect and log in, once.

        Raises:
            SourceUnavailable: The server can't be reached, or is not ready, within the time limit.
            SourceMisconfigured: The server refuses the credentials, the database or the client's certificate, its own
                can't be verified, or only one side speaks TLS.
        """
        context = tls_context(self._address) if self._address.tls else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                wire = self._wire = await self._connect(context)
                self._lost = None
                await self._log_in(wire)
        except (OSError, ServerRefusal, SourceError) as exc:  # TimeoutError is an OSError
            self._lose(_not_open)
            cause = exc.__cause__ if isinstance(exc, SourceError) and exc.__cause__ is not None else exc
            raise await self._explained(cause) from cause
        except BaseException:
            self._lose(_not_open)
            raise

    def raise_if_lost(self) -> None:
        """Raise the contract's error if the connection isn't there (any more)."""
        if self._lost is not None:
            raise self._lost()

    def request(self, *commands: Command, timeout: float | None = None) -> asyncio.Future[Replies]:
        """Send commands back to back; return the future of their replies. Cancelling it is harmless.

        Args:
            commands: Each as words.
            timeout: Seconds until the last reply; None takes the link's.
        """
        if self._lost is None and self._wire is not None:
            return self._wire.request(commands, self.timeout if timeout is None else timeout)
        assert self._lost is not None
        future: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
        future.set_exception(self._lost())
        future.exception()  # marks it as seen: a caller that was cancelled never looks
        return future

    def listen_again(self, cancelled: asyncio.Future[Replies]) -> asyncio.Future[Replies]:
        """Return a future of the replies to a request whose caller was cancelled, to be called by that one at once."""
        return cancelled if self._wire is None else self._wire.listen_again(cancelled)

    async def call(self, *command: str | bytes | int | float) -> Any:
        """Send one command; return its reply.

        Raises:
            SourceError: The contract's error for whatever went wrong.
        """
        return self.accept((await self.request(command))[0], doing=str(command[0]))

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int | float]) -> Any:
        """Run a script; return its reply. A server that doesn't know it is taught it first.

        Raises:
            SourceError: The contract's error for whatever went wrong.
        """
        command = ("EVALSHA", script.digest, len(keys), *keys, *arguments)
        [reply] = await self.request(command)
        if isinstance(reply, ServerRefusal) and reply.code == "NOSCRIPT":
            # Nothing ran. The cache of scripts is volatile: a restart, a failover and SCRIPT FLUSH empty it.
            await self.teach(script)
            [reply] = await self.request(command)
        return self.accept(reply, doing=script.name)

    async def teach(self, script: Script) -> None:
        """Load a script into the server's cache.

        Raises:
            SourceError: The contract's error for whatever went wrong.
        """
        await self.call("SCRIPT", "LOAD", script.source)

    def accept(self, reply: Any, *, doing: str) -> Any:
        """Return `reply`, or raise the contract's error if it is a refusal."""
        if isinstance(reply, ServerRefusal):
            raise translate(reply, self.where, doing) from reply
        return reply

    async def close(self) -> None:
        """Cut the connection; what still waits on it gets `SourceClosed`. Waits for nothing; may be called twice."""
        self._lose(lambda: SourceClosed("the connection to Redis was closed"))

    async def _connect(self, context: Any) -> Wire:
        loop, address = asyncio.get_running_loop(), self._address

        def new_wire() -> Wire:
            return Wire(self._on_lost)

        if address.path:
            _, wire = await loop.create_unix_connection(new_wire, address.path)
            return wire
        transport, wire = await loop.create_connection(
            new_wire, address.host, address.port, ssl=context, server_hostname=address.host if context else None
        )
        peer = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                if hasattr(socket, option):
                    peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return wire

    async def _log_in(self, wire: Wire) -> None:
        address, commands = self._address, list[Command]()
        if address.username:
            commands.append(("AUTH", address.username, address.password or ""))
        elif address.password:
            commands.append(("AUTH", address.password))
        if address.database:
            commands.append(("SELECT", address.database))
        # A server that refuses a client's certificate, or wants TLS, tells so when it is spoken to.
        commands.append(("TIME",))
        for reply in await wire.request(tuple(commands), self._connect_timeout):
            if isinstance(reply, ServerRefusal) and reply.code != "NOPERM":
                raise reply

    async def _explained(self, exc: BaseException) -> SourceError:
        mask(exc, self._address.password)
        fault = translate(exc, self.where, "connecting")
        if isinstance(fault, SourceUnavailable) and not isinstance(exc, ConnectionRefusedError | ServerRefusal):
            remedy = await diagnose(self._address)
            if remedy is not None:
                return SourceMisconfigured(f"Redis at {self.where}, connecting: {remedy}")
        return fault

    def _on_lost(self, exc: Exception | None) -> None:
        cause = ConnectionResetError("the server closed the connection") if exc is None else exc
        self._lose(lambda: translate(cause, self.where, "waiting for its answer"))

    def _lose(self, fault: Callable[[], SourceError]) -> None:
        if self._lost is None:
            self._lost = fault
        if self._wire is not None:
            self._wire.fail(self._lost)
            self._wire.abort()


def _not_open() -> SourceError:
    return SourceClosed("the connection to Redis isn't open")
