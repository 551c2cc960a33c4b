"""TcpProxy: stands between a client and a broker, and plays the faults of a network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any

from qbridge.testing.proxied_connection import (
    Action,
    Direction,
    Limit,
    ProxiedConnection,
    Rules,
    Side,
    Trigger,
    close,
)

__all__ = ["TcpProxy"]

#: Seconds within which the proxy's own thread must do what it is told.
_PATIENCE = 10.0

#: Seconds that a fault waits for connections that are being made, so that it meets them too.
_CONNECTING = 1.0

_BOTH: tuple[Direction, Direction] = ("requests", "replies")


class TcpProxy:
    """Stands between a client and a server and plays the faults of a network; a context manager, entered once.

    It listens on a port of this machine and forwards each connection to the server. It runs on a thread and an event
    loop of its own, so it serves tests with and without an event loop, and clients in other processes. Each method may
    be called from any thread, and what it asks for is in force when it returns.
    `restore()` ends every fault. On exit the connections are closed, and no thread and no socket is left.

    Requests travel from the client to the server, replies from the server to the client. What is sent is a stream, so
    a marker may be any bytes that stand in it: the name of a command, the head of a frame.

        >>> server = socket.create_server(("127.0.0.1", 0))
        >>> with server, TcpProxy("127.0.0.1", server.getsockname()[1]) as proxy:
        ...     with socket.create_connection(("127.0.0.1", proxy.port)) as client, server.accept()[0] as accepted:
        ...         client.sendall(b"PING")
        ...         print(accepted.recv(4))
        ...         proxy.cut()
        ...         print(client.recv(4), proxy.accepted, proxy.open, proxy.cuts, proxy.passed("requests"))
        b'PING'
        b'' 1 0 1 4

    Args:
        host: Where the server is.
        port: Its port. It need not listen yet; while it doesn't, clients are reset.
    """

    def __init__(self, host: str, port: int) -> None:
        #: Where clients connect, on 127.0.0.1; 0 before it is entered.
        self.port = 0
        #: How many connections were accepted.
        self.accepted = 0
        #: How many of them have not ended.
        self.open = 0
        #: How many a fault of the proxy has ended: a cut or a reset, or one side of them a half-open.
        self.cuts = 0
        self._server = (host, port)
        # What its name resolves to: the arguments for a socket, and the address.
        self._address: tuple[socket.AddressFamily, socket.SocketKind, int, Any] | None = None
        self._passed: dict[Direction, int] = {"requests": 0, "replies": 0}
        self._rules = Rules()
        # A connection is None until it has reached the server.
        self._connections: dict[asyncio.Task[None], ProxiedConnection | None] = {}
        self._connecting: set[asyncio.Future[None]] = set()
        self._faults: list[BaseException] = []
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self._is_listening = False

    def __enter__(self) -> TcpProxy:
        if self._thread is not None:
            raise RuntimeError("a TcpProxy is entered once: make another one")
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(*self._server, type=socket.SOCK_STREAM)
        self._address = (family, kind, protocol, address)
        self._listener = _bound_socket(0)
        self.port = self._listener.getsockname()[1]
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"TcpProxy {self.port}")
        self._thread.start()

        async def start() -> None:
            self._listen()

        self._do(start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._thread is not None
        try:
            self._do(self._leave())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_PATIENCE)
            self._loop.close()
        if exc is None and self._faults:
            raise RuntimeError("a connection through the proxy ended by a fault of the proxy") from self._faults[0]

    def passed(self, direction: Direction) -> int:
        """Return how many bytes were written on in a direction, on all connections."""
        return self._passed[direction]

    def wait_for(self, enough: Callable[[], object], timeout: float = 10.0) -> None:
        """Block until `enough()` is true of the proxy's counters.

            proxy.wait_for(lambda: proxy.cuts == 1)

        Args:
            enough: Called in this thread whenever a counter has changed.
            timeout: Seconds.

        Raises:
            TimeoutError: It did not become true in time.
        """
        with self._changed:
            if not self._changed.wait_for(enough, timeout):
                raise TimeoutError(
                    f"not within {timeout} s: {self.accepted} connections accepted, {self.open} open, {self.cuts} cut, "
                    f"{self.passed('requests')} bytes of requests and {self.passed('replies')} of replies passed"
                )

    def delay(self, *, requests: float = 0.0, replies: float = 0.0) -> None:
        """Let all bytes arrive so many seconds later, in each direction. Order and throughput are kept."""

        async def apply() -> None:
            self._rules.latency.update({"requests": requests, "replies": replies})

        self._do(apply())

    def cut(self, *, reset: bool = False) -> None:
        """Cut all open connections, towards both sides: with an orderly end, or with `reset` an error (RST)."""

        async def apply() -> None:
            connections = await self._open_connections()
            for connection in connections.values():
                connection.cut(reset=reset)
            await _all(connections)

        self._do(apply())

    def cut_after(self, count: int, direction: Direction, *, reset: bool = False) -> None:
        """Cut the first connection on which `count` more bytes, 1 or more, have passed in a direction; only that one.

        Exactly so many pass. Connections made later count from their beginning.
        """

        async def apply() -> None:
            passed = {each: each.passed(direction) for each in (await self._open_connections()).values()}
            self._rules.limits.append(Limit(count=count, direction=direction, reset=reset, passed_before=passed))

        if count < 1:
            raise ValueError(f"count must be 1 or more bytes, not {count} (cut() cuts at once)")
        self._do(apply())

    def cut_at(self, marker: bytes, direction: Direction, *, reset: bool = False) -> None:
        """Cut the first connection on which these bytes come: they don't arrive, nor what came along with them."""
        self._trigger(marker, direction, "cut", reset=reset)

    def cut_reply_to(self, marker: bytes) -> None:
        """Let the next request with these bytes reach the server; drop its reply and cut that connection.

        The cut comes with the first bytes that the server sends afterwards: it has then done what was asked, where it
        answers requests in order and says nothing of itself. Elsewhere name the reply: `cut_at(reply, "replies")`.
        """
        self._trigger(marker, "requests", "cut at reply")

    def hold(self, *directions: Direction) -> None:
        """Keep all that comes in these directions, both by default, until `restore()`, and let it arrive then.

        A network that loses packets for a while does so: those who wait see nothing, and nothing is lost if they wait
        long enough. Connections made meanwhile are accepted and held too.
        """

        async def apply() -> None:
            self._rules.holds.update(directions or _BOTH)
            for connection in (await self._open_connections()).values():
                for direction in directions or _BOTH:
                    connection.hold(direction)

        self._do(apply())

    def hold_request(self, marker: bytes) -> None:
        """Keep the next request with these bytes, and what follows it on its connection, until `restore()`."""
        self._trigger(marker, "requests", "hold")

    def hold_reply_to(self, marker: bytes) -> None:
        """Let the next request with these bytes pass; keep the replies on its connection until `restore()`."""
        self._trigger(marker, "requests", "hold replies")

    def swallow(self, *directions: Direction, new: bool = True) -> None:
        """Be a black hole: throw away all that comes in these directions, both by default, and close nothing.

        That a side has closed its end is thrown away as well. What has lost bytes can't go on: `restore()` resets it.

        Args:
            directions: Which of "requests" and "replies".
            new: Whether connections made from now on are swallowed too. False is a router that has forgotten the old.
        """

        async def apply() -> None:
            if new:
                self._rules.swallows.update(directions or _BOTH)
            for connection in (await self._open_connections()).values():
                for direction in directions or _BOTH:
                    connection.swallow(direction)

        self._do(apply())

    def half_open(self, gone: Side) -> None:
        """Reset one side of all open connections; the other side is not told, and what it sends is thrown away.

        It lasts until that side closes its end, or `restore()`. Connections made from now on are whole.
        """

        async def apply() -> None:
            connections = await self._open_connections()
            for connection in connections.values():
                connection.leave(gone)
            for connection in connections.values():
                await connection.is_left.wait()

        self._do(apply())

    def refuse(self) -> None:
        """Refuse new connections, as if nothing listened. Open ones stay: `cut()` ends them."""

        async def apply() -> None:
            self._stop_listening()

        self._do(apply())

    def restore(self) -> None:
        """End all faults: what was held goes on, what has lost bytes is reset, and new connections are accepted."""

        async def apply() -> None:
            # The same rules, emptied: connections hold on to them.
            self._rules.latency.update({"requests": 0.0, "replies": 0.0})
            for each in (self._rules.holds, self._rules.swallows, self._rules.triggers, self._rules.limits):
                each.clear()
            connections = await self._open_connections()
            broken = {task: each for task, each in connections.items() if each.has_lost}
            for connection in connections.values():
                connection.restore()
            await _all(broken)
            if not self._is_listening:
                self._listen()

        self._do(apply())

    def _trigger(self, marker: bytes, direction: Direction, action: Action, *, reset: bool = False) -> None:
        async def apply() -> None:
            self._rules.triggers.append(Trigger(marker=marker, direction=direction, action=action, reset=reset))

        if not marker:
            raise ValueError("marker must be at least one byte")
        self._do(apply())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Run on the proxy's loop, and wait for its end."""
        if self._loop is None or self._loop.is_closed():
            work.close()
            raise RuntimeError("a TcpProxy works between entering and leaving its with block")
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    async def _open_connections(self) -> dict[asyncio.Task[None], ProxiedConnection]:
        if self._connecting:
            await asyncio.wait(self._connecting, timeout=_CONNECTING)
        return {task: each for task, each in self._connections.items() if each is not None}

    def _listen(self) -> None:
        assert self._loop is not None
        assert self._listener is not None
        self._listener.listen(128)
        self._loop.add_reader(self._listener, self._accept, self._listener)
        self._is_listening = True

    def _stop_listening(self) -> None:
        if not self._is_listening:
            return
        assert self._loop is not None
        assert self._listener is not None
        self._loop.remove_reader(self._listener)
        self._listener.close()
        # Who is bound without listening refuses, and keeps the port from others.
        self._listener = _bound_socket(self.port)
        self._is_listening = False

    async def _leave(self) -> None:
        self._stop_listening()
        assert self._listener is not None
        self._listener.close()
        for task in self._connections:
            task.cancel()
        await _all(self._connections)

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # who came has left again
            return
        client.setblocking(False)
        connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connecting.add(connected)
        task = asyncio.create_task(self._serve(client, connected))
        self._connections[task] = None
        task.add_done_callback(self._on_ended)
        with self._changed:
            self.accepted += 1
            self.open += 1
            self._changed.notify_all()

    async def _serve(self, client: socket.socket, connected: asyncio.Future[None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = await self._connect()
            self._connections[task] = connection = ProxiedConnection(client, server, self._rules, self._on_passed)
        except OSError:
            close(client, reset=True)
            return
        except asyncio.CancelledError:
            client.close()
            raise
        finally:
            self._connecting.discard(connected)
            connected.set_result(None)
        await connection.run()

    async def _connect(self) -> socket.socket:
        assert self._address is not None
        *arguments, address = self._address
        server = socket.socket(*arguments)
        try:
            server.setblocking(False)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(server, address)
        except BaseException:
            server.close()
            raise
        return server

    def _on_passed(self, direction: Direction, count: int) -> None:
        with self._changed:
            self._passed[direction] += count
            self._changed.notify_all()

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._faults.append(fault)
        with self._changed:
            self.open -= 1
            self.cuts += connection is not None and connection.is_cut
            self._changed.notify_all()


async def _all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait until connections have ended, and been counted."""
    await asyncio.gather(*tasks, return_exceptions=True)


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(bound.close)
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        on_failure.pop_all()
    return bound
