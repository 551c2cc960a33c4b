"""Link: one connection to a Redis server, with a task that alone reads and writes it. Imports the client library.

The client library's own pool is not used: it reconnects and re-sends in silence, and a cancelled caller costs it the
connection. Here a caller that is cancelled merely stops listening, and a lost connection stays lost until the source
is opened again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from qbridge import SourceClosed, SourceError, SourceMisconfigured, SourceUnavailable
from qbridge_redis.faults import translate
from qbridge_redis.masking import mask
from qbridge_redis.options import RedisAddress
from qbridge_redis.scripts import Script
from qbridge_redis.tls import check_files, diagnose

__all__ = ["Command", "Link", "Replies", "ServerRefusal"]

#: The words of one command.
Command = tuple[str | bytes | int | float, ...]

#: A reply for each command of a request; an error reply is a `ServerRefusal`.
Replies = list[Any]

#: An error reply: the connection is well, the command was refused.
ServerRefusal = ResponseError

#: Seconds for a connection to say good-bye before it is cut.
_FAREWELL = 1.0


class _Request:
    __slots__ = ("count", "future", "packed", "timeout")

    def __init__(self, packed: bytes, count: int, timeout: float, future: asyncio.Future[Replies]) -> None:
        self.packed = packed
        self.count = count
        self.timeout = timeout
        self.future = future


class Link:
    """One connection. Belongs to the loop that opens it.

    Requests are sent in the order of the calls, several at once if they wait together, each exactly once. Every one
    ends within its time limit: with its replies, or with the contract's error.

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
        self._connection = _new_connection(address, connect_timeout)
        self._pack = _packer(self._connection)
        self._inbox: list[_Request] = []
        self._idle: asyncio.Future[None] | None = None
        self._driver: asyncio.Task[None] | None = None
        self._lost: Callable[[], SourceError] | None = lambda: SourceClosed("the connection to Redis isn't open")

    async def open(self) -> None:
        """Connect and log in, once.

        Raises:
            SourceUnavailable: The server can't be reached, or is not ready, within the time limit.
            SourceMisconfigured: The server refuses the credentials, the database or the client's certificate, its own
                can't be verified, or only one side speaks TLS.
        """
        check_files(self._address)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._connection.connect()
        except (RedisError, OSError) as exc:  # TimeoutError is an OSError
            await self._hang_up()
            raise await self._explained(exc) from exc
        except BaseException:
            await self._hang_up()
            raise
        self._lost = None
        self._driver = asyncio.create_task(self._drive(), name="qbridge-redis-link")

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
        future: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
        if self._lost is not None:
            _fail(future, self._lost())
            return future
        pack = self._pack
        packed = pack(commands[0]) if len(commands) == 1 else b"".join([pack(command) for command in commands])
        self._inbox.append(_Request(packed, len(commands), self.timeout if timeout is None else timeout, future))
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        return future

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
        if isinstance(reply, NoScriptError):
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
        if isinstance(reply, ResponseError):
            raise translate(reply, self.where, doing) from reply
        return reply

    async def close(self) -> None:
        """Cut the connection; what still waits on it gets `SourceClosed`. Bounded; may be called twice."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.cancel()
            await asyncio.wait({driver}, timeout=_FAREWELL)
        await self._hang_up()

    async def _explained(self, exc: BaseException) -> SourceError:
        mask(exc, self._address.password)
        fault = translate(exc, self.where, "connecting")
        if isinstance(fault, SourceUnavailable) and not isinstance(exc.__context__, ConnectionRefusedError):
            remedy = await diagnose(self._address)
            if remedy is not None:
                return SourceMisconfigured(f"Redis at {self.where}, connecting: {remedy}")
        return fault

    async def _drive(self) -> None:
        connection = self._connection
        pending: list[_Request] = []
        try:
            while True:
                if not self._inbox:
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
                pending, self._inbox = self._inbox, []
                async with asyncio.timeout(max([request.timeout for request in pending])):
                    await connection.send_packed_command([request.packed for request in pending])
                    for request in pending:
                        replies = [await _read(connection) for _ in range(request.count)]
                        if not request.future.done():
                            request.future.set_result(replies)
                pending = []
        except (RedisError, OSError) as exc:
            cause = exc
            self._lose(lambda: translate(cause, self.where, "waiting for its answer"), pending)
            await self._hang_up()
        finally:
            self._lose(lambda: SourceClosed("the connection to Redis was closed"), pending)

    def _lose(self, fault: Callable[[], SourceError], pending: Sequence[_Request]) -> None:
        if self._lost is None:
            self._lost = fault
        waiting, self._inbox = [*pending, *self._inbox], []
        for request in waiting:
            _fail(request.future, self._lost())

    async def _hang_up(self) -> None:
        # The client library's disconnect() waits for what is still in the socket's buffer, which a dead peer never
        # takes; abort() doesn't.
        writer: asyncio.StreamWriter | None = getattr(self._connection, "_writer", None)
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._connection.disconnect(nowait=writer is None)
        except (RedisError, OSError):
            if writer is not None:
                writer.transport.abort()


async def _read(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as exc:
        return exc


def _fail(future: asyncio.Future[Replies], fault: SourceError) -> None:
    if not future.done():
        future.set_exception(fault)
        future.exception()  # marks it as seen: a caller that was cancelled never looks


def _new_connection(address: RedisAddress, connect_timeout: float) -> Any:
    common: dict[str, Any] = {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        # Time limits are the driver's: the client library would spend a task on each command.
        "socket_timeout": None,
        "socket_connect_timeout": connect_timeout,
        # A command whose outcome is unknown must not be sent again by anybody but the core.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if address.path:
        return UnixDomainSocketConnection(path=address.path, **common)
    common |= {"host": address.host, "port": address.port, "socket_keepalive": True}
    if address.tls:
        common |= address.tls_options
        return SSLConnection(**common)
    return Connection(**common)


def _packer(connection: Any) -> Callable[[Command], bytes]:
    try:
        from hiredis import pack_command
    except ImportError:
        return lambda command: b"".join(connection.pack_command(*command))
    # A tenth of the time of the client library's own, which is written in Python.
    return pack_command  # type: ignore[return-value]  # its stub names a tuple of one word
