"""ProxiedConnection: one client's connection through a `TcpProxy`, and what is done to it. Belongs to the proxy's loop.

A pipe for each direction reads from one socket and writes to the other. The rules that it heeds are the proxy's; they
are looked at when bytes are written on, not when they are read, so that faults meet what is on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Action", "Direction", "Limit", "ProxiedConnection", "Rules", "Side", "Trigger"]

#: "requests" travel from the client to the server, "replies" from the server to the client.
Direction = Literal["requests", "replies"]

#: An end of a connection through the proxy.
Side = Literal["client", "server"]

#: What a trigger does to the connection on which it is met.
Action = Literal["cut", "cut at reply", "hold", "hold replies"]

_CHUNK = 65536

#: Chunks that are on their way in one direction; a source that sends more is made to wait.
_MAX_ON_THE_WAY = 64

_OTHER: dict[Direction, Direction] = {"requests": "replies", "replies": "requests"}


@dataclass(eq=False, kw_only=True)
class Trigger:
    """Does something to the first connection on which a marker is met, once."""

    marker: bytes
    direction: Direction
    action: Action
    reset: bool = False


@dataclass(eq=False, kw_only=True)
class Limit:
    """Cuts the first connection on which `count` bytes have passed since the limit was set, once."""

    count: int
    direction: Direction
    reset: bool = False
    passed_before: dict[ProxiedConnection, int] = field(default_factory=dict)


@dataclass(eq=False)
class Rules:
    """What the connections of a proxy heed."""

    latency: dict[Direction, float] = field(default_factory=lambda: {"requests": 0.0, "replies": 0.0})
    holds: set[Direction] = field(default_factory=set)
    swallows: set[Direction] = field(default_factory=set)
    triggers: list[Trigger] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)


class ProxiedConnection:
    """Forwards between two connected sockets until both are at their end or a fault ends it, and closes them.

    Args:
        client: The socket of who connected to the proxy; closed by `run`.
        server: The socket to where the proxy leads; closed by `run`.
        rules: What to heed.
        on_passed: Called with the direction and the count of bytes that were written on.
    """

    def __init__(
        self, client: socket.socket, server: socket.socket, rules: Rules, on_passed: Callable[[Direction, int], None]
    ) -> None:
        self.rules = rules
        self.on_passed = on_passed
        #: Whether a fault of the proxy has ended it or one of its sides.
        self.is_cut = False
        #: Set when one side is closed by `leave`.
        self.is_left = asyncio.Event()
        #: Whether the next bytes that the server sends cut it.
        self.cuts_at_reply = False
        self._sockets: dict[Side, socket.socket] = {"client": client, "server": server}
        self._pipes: dict[Direction, _Pipe] = {
            "requests": _Pipe(self, "requests", client, server),
            "replies": _Pipe(self, "replies", server, client),
        }
        self._stops_forwarding = asyncio.Event()
        self._ended = asyncio.Event()
        self._resets = False
        self._gone: Side | None = None

    @property
    def is_ending(self) -> bool:
        """Whether nothing more is written on, as it has been ended or left."""
        return self._stops_forwarding.is_set()

    @property
    def has_lost(self) -> bool:
        """Whether bytes, or the news of an end, were swallowed: what follows would make no sense to its reader."""
        return self._gone is not None or any(pipe.has_lost for pipe in self._pipes.values())

    def passed(self, direction: Direction) -> int:
        """Return how many bytes were written on in a direction."""
        return self._pipes[direction].passed

    def pipe_swallows(self, direction: Direction) -> bool:
        """Return whether what travels in a direction is thrown away."""
        return self._pipes[direction].swallows

    def swallow(self, direction: Direction) -> None:
        """Throw away what travels in a direction."""
        self._pipes[direction].swallows = True

    def hold(self, direction: Direction) -> None:
        """Keep what travels in a direction until `restore`."""
        self._pipes[direction].gate.clear()

    def restore(self) -> None:
        """Let all travel on; if something was thrown away, reset both sides instead."""
        if self.has_lost:
            self.end(reset=True)
            return
        self.cuts_at_reply = False
        for pipe in self._pipes.values():
            pipe.swallows = False
            pipe.gate.set()

    def cut(self, *, reset: bool) -> None:
        """End it as a fault of the proxy: both sides are closed, or reset."""
        self.is_cut = True
        self.end(reset=reset)

    def end(self, *, reset: bool = False) -> None:
        """End it; `run` closes the sockets."""
        self._resets = self._resets or reset
        self._stops_forwarding.set()
        self._ended.set()

    def leave(self, gone: Side) -> None:
        """Reset one side and let the other believe that all is well."""
        self.is_cut = True
        self._gone = gone
        self._stops_forwarding.set()

    def on_pipe_ended(self) -> None:
        """End it once both directions have ended."""
        if all(pipe.has_ended for pipe in self._pipes.values()):
            self.end()

    async def run(self) -> None:
        """Forward until the end; close both sockets, also when cancelled."""
        try:
            await self._forward()
            if self._gone is not None:
                close(self._sockets.pop(self._gone), reset=True)
                self.is_left.set()
                await self._discard(*self._sockets.values())
        finally:
            for each in self._sockets.values():
                close(each, reset=self._resets)
            self.is_left.set()

    async def _forward(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pipe.read()) for pipe in self._pipes.values()]
            tasks += [group.create_task(pipe.write()) for pipe in self._pipes.values()]
            await self._stops_forwarding.wait()
            for task in tasks:
                task.cancel()

    async def _discard(self, left: socket.socket) -> None:
        async with asyncio.TaskGroup() as group:
            discarding = group.create_task(self._read_until_its_end(left))
            await self._ended.wait()
            discarding.cancel()

    async def _read_until_its_end(self, left: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(left, _CHUNK):
                pass
        self.end()


class _Pipe:
    """One direction of a connection."""

    def __init__(
        self, connection: ProxiedConnection, direction: Direction, source: socket.socket, sink: socket.socket
    ) -> None:
        self.swallows = direction in connection.rules.swallows
        self.has_lost = False
        self.has_ended = False
        self.passed = 0
        self.gate = asyncio.Event()
        if direction not in connection.rules.holds:
            self.gate.set()
        self._connection = connection
        self._direction: Direction = direction
        self._source, self._sink = source, sink
        # When to write it, and what: bytes, b"" for an orderly end, None for a reset.
        self._on_the_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_MAX_ON_THE_WAY)
        self._tail = b""

    async def read(self) -> None:
        loop = asyncio.get_running_loop()
        chunk: bytes | None = b"-"
        while chunk:
            try:
                chunk = await loop.sock_recv(self._source, _CHUNK)
            except OSError:
                chunk = None
            if chunk and self._direction == "replies" and self._connection.cuts_at_reply:
                self._connection.cut(reset=False)
                return
            await self._on_the_way.put((loop.time() + self._connection.rules.latency[self._direction], chunk))

    async def write(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.has_ended:
            due, chunk = await self._on_the_way.get()
            if (pause := due - loop.time()) > 0:
                await asyncio.sleep(pause)
            if chunk and self._meets_cut(chunk):
                return
            await self.gate.wait()
            if self._connection.is_ending:
                return
            self.has_ended = not chunk
            if self.swallows:
                self.has_lost = True
            elif chunk is None:
                self._connection.end(reset=True)
            elif not chunk:
                with contextlib.suppress(OSError):  # it is gone already
                    self._sink.shutdown(socket.SHUT_WR)
            else:
                await self._pass_on(chunk)
        self._connection.on_pipe_ended()

    async def _pass_on(self, chunk: bytes) -> None:
        limit = self._first_limit(len(chunk))
        if limit is not None:
            self._connection.rules.limits.remove(limit)
            chunk = chunk[: self._left_of(limit)]
        try:
            await asyncio.get_running_loop().sock_sendall(self._sink, chunk)
        except OSError:
            # The reader is gone. That news travels against the stream.
            if self._connection.pipe_swallows(_OTHER[self._direction]):
                self.swallows = self.has_lost = True
            else:
                self._connection.end(reset=True)
            return
        self.passed += len(chunk)
        self._connection.on_passed(self._direction, len(chunk))
        if limit is not None:
            self._connection.cut(reset=limit.reset)

    def _first_limit(self, size: int) -> Limit | None:
        limits = [limit for limit in self._connection.rules.limits if limit.direction == self._direction]
        return next((limit for limit in limits if self._left_of(limit) <= size), None)

    def _left_of(self, limit: Limit) -> int:
        return limit.count - (self.passed - limit.passed_before.get(self._connection, 0))

    def _meets_cut(self, chunk: bytes) -> bool:
        """Carry out what is triggered by this chunk; return whether the connection is cut by it."""
        rules, seen = self._connection.rules, self._tail + chunk
        for trigger in [each for each in rules.triggers if each.direction == self._direction]:
            # A marker may have come in two parts; one that came before the trigger was set is none.
            if trigger.marker not in seen[max(0, len(self._tail) - len(trigger.marker) + 1) :]:
                continue
            rules.triggers.remove(trigger)
            if trigger.action == "cut":
                self._connection.cut(reset=trigger.reset)
                return True
            if trigger.action == "cut at reply":
                self._connection.cuts_at_reply = True
            else:
                self._connection.hold("replies" if trigger.action == "hold replies" else self._direction)
        longest = max((len(trigger.marker) for trigger in rules.triggers), default=0)
        self._tail = seen[-longest:] if longest else b""
        return False


def close(each: socket.socket, *, reset: bool) -> None:
    """Close a socket; its peer reads the end of the stream, or with `reset` meets an error."""
    if reset:
        with contextlib.suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_WR)
            # Closing a socket with unread bytes resets it. Who never stops sending is not waited for.
            for _ in range(_MAX_ON_THE_WAY):
                if not each.recv(_CHUNK):
                    break
    each.close()
