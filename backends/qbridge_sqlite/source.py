"""SqliteSource: the contract, spoken by a queue in an SQLite file."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbridge import (
    Capabilities,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueSource,
    QueueStats,
    Settled,
    Settlement,
    SourceClosed,
    SourceMisconfigured,
)
from qbridge_sqlite.connection_thread import ConnectionThread
from qbridge_sqlite.dead_letters import BATCH, list_by_names, list_in_order, newest, purge, redrive
from qbridge_sqlite.options import SqliteOptions
from qbridge_sqlite.requests import Call, Claim, Claimed, KeepAlive, Request, Send, Settle

if TYPE_CHECKING:
    from qbridge_sqlite.database import Database

__all__ = ["CAPABILITIES", "SqliteSource"]

#: What every sqlite queue can do.
CAPABILITIES = Capabilities(
    durable=True,
    shared=True,
    ordered=True,
    delay=True,
    lease="timeout",
    attempts=True,
    headers=True,
    dead_letters=True,
)

#: Seconds after which a receive that waits looks even if nothing wakes it: at what another program wrote into the
#: tables, at leases that began after its last look, and at a clock that was set.
_LOOK_EVERY = 1.0

#: Seconds that a pause takes at least, so that a message due in a moment isn't looked for a hundred times.
_SHORTEST_PAUSE = 0.001

#: Wake-ups that are read at once; more than a socket keeps.
_WAKE_UPS_READ = 1024


class SqliteSource(QueueSource):
    """A queue in a file, as one worker or producer sees it.

    Everything that touches the file is done by one thread that lives from `open` to `close`.

    Args:
        name: The queue's name; several queues may share the file.
        options: As configured. A relative path is resolved here, from the working directory.
    """

    capabilities = CAPABILITIES

    def __init__(self, name: str, options: SqliteOptions) -> None:
        self._name = name
        self._options = options
        self._path = Path(os.path.abspath(options.path))  # noqa: PTH100  # Path.absolute keeps ".."
        self.lease: float = options.lease
        self._thread: ConnectionThread | None = None
        self._is_woken = False
        # Set when a receive that waits should look again.
        self._look = asyncio.Event()
        # The socket that the event loop watches while a receive waits.
        self._watched: socket.socket | None = None

    async def open(self) -> None:
        """Open the file; make it and its tables if they are missing. Waits at most `busy_timeout` for a lock."""
        if self._thread is not None:
            return
        self._is_woken = False
        self._look = asyncio.Event()
        thread = ConnectionThread(f"qbridge-sqlite-{self._name}", self._open_database)
        await thread.open()
        self._thread = thread

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim up to `limit` messages, and up to 1000 a call.

        What a cancelled call had claimed is released in the background, without counting.
        """
        thread = self._opened_thread()
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        try:
            while True:
                self._look.clear()
                claimed = await _claim(thread, Claim(limit=limit, waits=wait > 0))
                if self._thread is not thread:
                    thread.give_back(claimed)
                    return []
                remaining = end - loop.time()
                if claimed.deliveries or remaining <= 0 or self._is_woken:
                    return claimed.deliveries
                if claimed.pause > 0:
                    await self._pause(claimed.listener, min(remaining, claimed.pause, _LOOK_EVERY))
                if self._thread is not thread:
                    return []
        finally:
            self._is_woken = False

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """End deliveries, all in one transaction. A second settlement of one delivery in a later call is LOST."""
        thread = self._opened_thread()
        if not settlements:
            return []
        outcomes: list[Settled] = await self._ask(thread, Settle(settlements=settlements))
        return outcomes

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Add all of `messages`, or none. Calls that overlap share a commit."""
        thread = self._opened_thread()
        if messages:
            await self._ask(thread, Send(messages=messages))

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Let the leases begin anew; return the deliveries that are no longer in flight."""
        thread = self._opened_thread()
        if not deliveries:
            return []
        lost: list[Delivery] = await self._ask(thread, KeepAlive(deliveries=deliveries))
        return lost

    async def stats(self) -> QueueStats:
        """Count what is in the queue."""
        stats: QueueStats = await self._call(lambda database: database.messages.stats())
        return stats

    async def dead_letters(
        self, *, limit: int = 100, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[DeadLetter]:
        """List dead letters, oldest first. An `after` that is gone starts with the oldest."""

        def listed(database: Database) -> list[DeadLetter]:
            if ids is not None:
                return list_by_names(database.sqlite, database.queue, ids)
            return list_in_order(database.sqlite, database.queue, after=after, limit=limit)

        found: list[DeadLetter] = await self._call(listed)
        return found

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Make dead letters ready again, their errors kept, in batches of one transaction each."""
        return await self._in_batches(redrive, ids, is_ringing=True)

    async def purge(self, ids: Sequence[str] | None = None) -> int:
        """Delete dead letters, in batches of one transaction each."""
        return await self._in_batches(purge, ids)

    def wake(self) -> None:
        """Let the waiting receive, or the next one, return."""
        self._is_woken = True
        self._look.set()

    async def close(self) -> None:
        """End the thread and let go of the file. A receive that waits returns []."""
        thread, self._thread = self._thread, None
        # Before the thread closes the socket: its number may be another file's at once.
        self._stop_watching()
        self._look.set()
        if thread is not None:
            await thread.close()

    def _opened_thread(self) -> ConnectionThread:
        if self._thread is None:
            raise SourceClosed(f"sqlite queue {self._name!r} is not open: call open() first")
        return self._thread

    def _open_database(self, stopping: threading.Event) -> Database:
        try:
            from qbridge_sqlite.database import Database
        except ImportError as exc:
            raise SourceMisconfigured("this Python was built without SQLite: install one that has sqlite3") from exc
        return Database(self._name, self._path, self._options, stopping)

    async def _ask(self, thread: ConnectionThread, request: Request) -> Any:
        answer = await thread.submit(request)
        if request.rings:
            # Other sources are woken through their sockets; this one's thread leaves that to us.
            self._look.set()
        return answer

    async def _call(self, function: Callable[[Database], Any], *, writes: bool = False, rings: bool = False) -> Any:
        request = Call(function=function, is_writing=writes, is_ringing=rings)
        return await self._ask(self._opened_thread(), request)

    async def _in_batches(
        self,
        step: Callable[[Any, int, int | Sequence[str]], int],
        ids: Sequence[str] | None,
        *,
        is_ringing: bool = False,
    ) -> int:
        def take(which: int | Sequence[str]) -> Callable[[Database], int]:
            return lambda database: step(database.sqlite, database.queue, which)

        total = 0
        if ids is None:
            bound = await self._call(lambda database: newest(database.sqlite, database.queue))
            while count := await self._call(take(bound), writes=True, rings=is_ringing):
                total += count
        else:
            for start in range(0, len(ids), BATCH):
                total += await self._call(take(ids[start : start + BATCH]), writes=True, rings=is_ringing)
        return total

    async def _pause(self, listener: socket.socket | None, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(seconds, _SHORTEST_PAUSE), self._look.set)
        try:
            if listener is not None:
                loop.add_reader(listener.fileno(), self._read_wake_ups)
                self._watched = listener
            await self._look.wait()
        finally:
            timer.cancel()
            self._stop_watching()

    def _read_wake_ups(self) -> None:
        if self._watched is not None:
            with suppress(OSError):  # when all are read
                for _ in range(_WAKE_UPS_READ):
                    self._watched.recv(1)
        self._look.set()

    def _stop_watching(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            asyncio.get_running_loop().remove_reader(watched.fileno())


async def _claim(thread: ConnectionThread, request: Claim) -> Claimed:
    future = thread.submit(request)
    try:
        claimed: Claimed = await future
    except asyncio.CancelledError:
        # Cancelled after the answer came and before it got here. What is answered later, the thread gives back itself.
        if future.done() and not future.cancelled() and future.exception() is None:
            thread.give_back(future.result())
        raise
    return claimed
