"""ConnectionThread: the one thread that touches the file, and the way to it from the event loop."""

from __future__ import annotations

import asyncio
import atexit
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qbridge import SourceClosed
from qbridge_sqlite.requests import Call, Claim, Claimed, Request, Settle

if TYPE_CHECKING:
    from qbridge_sqlite.database import Answer, Database

__all__ = ["ConnectionThread"]

log = logging.getLogger(__name__)

#: Messages that are taken into one transaction, give or take one request.
_GROUP = 5000

#: Seconds that the thread may take to end before its statement is interrupted, and then before it is given up.
_PATIENCE = 5.0
_PATIENCE_AFTER_INTERRUPT = 1.0


class ConnectionThread:
    """Performs requests in a thread of its own; belongs to the event loop on which it was made. Opened once.

    The thread is a daemon, so that a forgotten `close` doesn't keep the process; at exit it is ended in order even so.

    Args:
        name: Of the thread.
        open_database: Called in the thread, with the event that says when to stop.
    """

    def __init__(self, name: str, open_database: Callable[[threading.Event], Database]) -> None:
        self._loop = asyncio.get_running_loop()
        self._open_database = open_database
        self._database: Database | None = None
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def open(self) -> None:
        """Start the thread and open the database. After an error or a cancel nothing is left.

        Raises:
            SourceError: Whatever `open_database` raised.
        """
        atexit.register(self._end_at_exit)
        self._thread.start()
        try:
            await self._opened
        except BaseException:
            await self.close()
            raise

    def submit(self, request: Request) -> asyncio.Future[Any]:
        """Let the thread perform `request`; return the future of its answer."""
        future = request.future = self._loop.create_future()
        self._requests.put(request)
        if self._ended.done():
            self._refuse_rest()
        return future

    def give_back(self, claimed: Claimed) -> None:
        """Let the thread release what was claimed for a caller who is gone."""
        if claimed.deliveries:
            self._requests.put(Settle(settlements=[delivery.release() for delivery in claimed.deliveries]))

    async def close(self) -> None:
        """End the thread, after what was submitted before. Bounded in time; may be called twice."""
        # Whoever waits for a lock gives up.
        self._stopping.set()
        # A claim that reaches nobody is given back from the event loop: the thread must not end before that.
        last = self.submit(Call(function=_do_nothing))
        try:
            if not await _within(last, _PATIENCE) and self._database is not None:
                with suppress(Exception):  # it may have closed by itself this very moment
                    self._database.interrupt()
                await _within(last, _PATIENCE_AFTER_INTERRUPT)
        finally:
            if last.done():
                last.exception()  # retrieved, as nobody else asks for it
            self._requests.put(None)
        if await _within(self._ended, _PATIENCE):
            self._thread.join(_PATIENCE)
        else:
            name = self._thread.name
            log.error("the thread of an sqlite queue hangs and is left behind", extra={"queue_thread": name})
        atexit.unregister(self._end_at_exit)

    def _run(self) -> None:
        try:
            try:
                database = self._database = self._open_database(self._stopping)
            except BaseException as exc:  # noqa: BLE001  # raised where the opening is awaited
                self._tell(self._finish_opening, exc)
                return
            try:
                self._tell(self._finish_opening, None)
                self._serve(database)
            finally:
                database.close()
        finally:
            self._tell(self._finish)

    def _serve(self, database: Database) -> None:
        while group := self._next_group():
            answers: list[Answer]
            try:
                answers = database.perform(group)
            except BaseException as exc:  # a fault in this backend: nobody may wait for ever for that
                self._tell(self._answer, [(request, exc) for request in group])
                raise
            if not self._tell(self._answer, answers):
                # The loop was closed under us: nobody will ever see these.
                for _, result in answers:
                    if isinstance(result, Claimed):
                        database.give_back(result.deliveries)
                return

    def _next_group(self) -> list[Request]:
        """Wait for a request; return it with those that have gathered meanwhile, or [] when it is time to end."""
        group: list[Request] = []
        weight = 0
        request = self._requests.get()
        while request is not None:
            # Of a claim that nobody waits for any more, nothing has to be given back if it isn't made.
            if not (isinstance(request, Claim) and request.future is not None and request.future.cancelled()):
                group.append(request)
                weight += request.weight
            if weight >= _GROUP:
                return group
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                if group:
                    return group
                request = self._requests.get()
        if group:
            self._requests.put(None)
        return group

    def _tell(self, callback: Callable[..., None], *args: object) -> bool:
        """Call `callback` on the event loop; return False if the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            return False
        return True

    def _finish_opening(self, exc: BaseException | None) -> None:
        if self._opened.done():  # cancelled
            return
        if exc is None:
            self._opened.set_result(None)
        else:
            self._opened.set_exception(exc)

    def _answer(self, answers: Sequence[Answer]) -> None:
        for request, result in answers:
            future = request.future
            if future is None:
                continue
            if future.cancelled():
                if isinstance(result, Claimed):
                    self.give_back(result)
            elif isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _finish(self) -> None:
        self._ended.set_result(None)
        self._refuse_rest()

    def _refuse_rest(self) -> None:
        while True:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return
            if request is not None and request.future is not None and not request.future.done():
                request.future.set_exception(SourceClosed("the sqlite queue was closed meanwhile"))

    def _end_at_exit(self) -> None:
        self._stopping.set()
        self._requests.put(None)
        self._thread.join(_PATIENCE)


def _do_nothing(database: Database) -> None:
    """Be performed."""


async def _within(future: asyncio.Future[Any], timeout: float) -> bool:
    """Wait for `future` at most `timeout` seconds, without cancelling it; return whether it is done."""
    done, _ = await asyncio.wait([future], timeout=timeout)
    return bool(done)
