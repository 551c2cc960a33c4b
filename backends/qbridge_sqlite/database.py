"""Database: groups of requests, each group in one transaction.

A commit costs a flush to the disk, far more than the statements before it. So what the event loop asked for while the
thread was busy is done and committed together; if that fails, each request is tried alone, so that one which can't be
done takes no other with it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from qbridge import Delivery, SourceUnavailable
from qbridge_sqlite.connection import Connection
from qbridge_sqlite.failures import is_busy, translate
from qbridge_sqlite.options import SqliteOptions
from qbridge_sqlite.requests import Call, Claim, Claimed, KeepAlive, Request, Send, Settle
from qbridge_sqlite.sending import Room, send
from qbridge_sqlite.settling import settle
from qbridge_sqlite.statements import MessageTable
from qbridge_sqlite.wakeup import WakeUps

__all__ = ["Answer", "Database"]

#: A request and what came of it: an exception, or what the request is answered with.
Answer = tuple[Request, Any]


class Database:
    """One queue in its file; belongs to the thread that makes it.

    Args:
        name: The queue's name.
        path: The file, absolute.
        options: As configured.
        stopping: Set when the thread is to end.

    Raises:
        SourceMisconfigured: The file can't be opened, or isn't ours.
        SourceUnavailable: It stayed locked.
    """

    def __init__(self, name: str, path: Path, options: SqliteOptions, stopping: threading.Event) -> None:
        self._path = path
        self._options = options
        self._connection = Connection(name, path, options, stopping)
        #: For what has no request of its own: the connection, `queues.id`, the statements, the wake-ups.
        self.sqlite = self._connection.sqlite
        self.queue = self._connection.queue
        self.messages = MessageTable(self.sqlite, self.queue, lease=options.lease)
        self.wake_ups = WakeUps(path, self.queue)
        self._room = Room(path, max_size=options.max_size, reserve=options.reserve)

    def perform(self, requests: Sequence[Request]) -> list[Answer]:
        """Do all of `requests`; return an answer for each. Raises nothing of SQLite's or of the contract's."""
        try:
            self._connection.check_file()
            answers = self._connection.while_busy(partial(self._attempt, requests))
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is the answer
            if len(requests) > 1 and not _concerns_all(exc):
                return list(chain.from_iterable(self.perform([request]) for request in requests))
            return [(request, self._translated(exc, request)) for request in requests]
        if any(request.rings for request in requests):
            self.wake_ups.ring()
        for request, result in answers:
            if isinstance(request, Claim) and request.waits and not result.deliveries:
                self._prepare_to_wait(result)
        return answers

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Release deliveries that reached nobody; what fails is left to its lease."""
        self.perform([Settle(settlements=[delivery.release() for delivery in deliveries])])

    def interrupt(self) -> None:
        """End the statement that runs. May be called from any thread."""
        self.sqlite.interrupt()

    def close(self) -> None:
        """Close the connection and the sockets."""
        self.wake_ups.close()
        self.sqlite.close()

    def _attempt(self, requests: Sequence[Request]) -> list[Answer]:
        try:
            return self._answer_without_lock(requests) or self._in_one_transaction(requests)
        except BaseException:
            with suppress(sqlite3.Error):  # closing, which follows a SourceUnavailable, undoes it as well
                self._connection.roll_back()
            raise

    def _answer_without_lock(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer a claim that is alone and finds nothing, without the write lock; else return nothing."""
        if len(requests) > 1 or not isinstance(requests[0], Claim):
            return []
        pause = self.messages.look()
        return [(requests[0], Claimed([], pause))] if pause > 0 else []

    def _prepare_to_wait(self, claimed: Claimed) -> None:
        was_listening = self.wake_ups.listener
        claimed.listener = self.wake_ups.listen()
        if claimed.listener is not was_listening:
            # What was sent before it listened woke nobody here: look again at once.
            claimed.pause = 0.0

    def _in_one_transaction(self, requests: Sequence[Request]) -> list[Answer]:
        self._connection.begin(writes=any(request.writes for request in requests))
        sends = [request for request in requests if isinstance(request, Send)]
        answers: list[Answer] = [(request, None) for request in sends]
        if sends:
            messages = chain.from_iterable(request.messages for request in sends)
            send(self.sqlite, self.queue, messages, self._room)
        answers += [(request, self._perform_one(request)) for request in requests if not isinstance(request, Send)]
        self._connection.commit()
        return answers

    def _perform_one(self, request: Request) -> Any:
        match request:
            case Settle():
                return settle(self.sqlite, self.messages, request.settlements)
            case Claim():
                return self.messages.claim(request.limit)
            case KeepAlive():
                return self.messages.keep_alive(request.deliveries)
            case Call():
                return request.function(self)
        raise TypeError(f"unknown request {request!r}")

    def _translated(self, exc: Exception, request: Request) -> Exception:
        if not isinstance(exc, sqlite3.Error):
            return exc
        is_send = isinstance(request, Send)
        error = translate(exc, self._path, busy_timeout=self._options.busy_timeout, is_send=is_send)
        error.__cause__ = exc
        return error


def _concerns_all(exc: Exception) -> bool:
    return (isinstance(exc, sqlite3.Error) and is_busy(exc)) or isinstance(exc, SourceUnavailable)
