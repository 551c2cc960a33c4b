"""Sending: messages on their way into the table, and whether there is room for them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qbridge import Outgoing, SourceFull
from qbridge_sqlite.schema import DELAYED, READY
from qbridge_sqlite.values import as_json, as_storable

__all__ = ["Room", "send"]

#: Bytes of bodies that are joined for one statement.
_JOINED_BYTES = 16 * 2**20

# Of an empty body substr() makes NULL.
_INSERT = """
    INSERT INTO messages (queue, state, due, ready_at, enqueued_at, message_id, headers, body)
    SELECT :queue, {state}, {due}, {due}, :now, json_extract(value, '$[0]'), json_extract(value, '$[1]'),
           coalesce(substr(:bodies, json_extract(value, '$[2]'), json_extract(value, '$[3]')), x'')
    FROM json_each(:rows)
"""
_INSERT_READY = _INSERT.format(state=READY, due=":now")
_INSERT_DELAYED = _INSERT.format(state=DELAYED, due=":now + json_extract(value, '$[4]')")

_PAGES = """
    SELECT (page_count - freelist_count) * page_size, freelist_count * page_size
    FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""


class Room:
    """Tells whether there is room for more messages.

    Only sends ask. What settles messages is never refused for lack of room, or a full queue could not be emptied.

    Args:
        path: The database file.
        max_size: As in `SqliteOptions`.
        reserve: As in `SqliteOptions`.
    """

    def __init__(self, path: Path, *, max_size: int | None, reserve: int) -> None:
        self._folder = os.fspath(path.parent)
        self._max_size = max_size
        self._reserve = reserve

    def check(self, connection: sqlite3.Connection, size: int) -> None:
        """See that there is room for `size` bytes.

        Raises:
            SourceFull: There isn't.
        """
        if self._max_size is not None:
            used, _ = self._used_and_free(connection)
            if used + size > self._max_size:
                raise SourceFull(f"the messages in the file take {used} bytes, and its max_size is {self._max_size}")
        if not self._reserve:
            return
        disk = shutil.disk_usage(self._folder)
        # They are written twice, to the log and to the file. Some file systems don't tell how large they are.
        if not disk.total or disk.free >= self._reserve + 2 * size:
            return
        # A file that was emptied keeps its size, and has room where its messages were.
        _, free = self._used_and_free(connection)
        if free < 2 * size:
            raise SourceFull(
                f"the disk of {self._folder!r} has {disk.free} bytes left, and reserve is {self._reserve}, which "
                "workers need to empty the queue: make room on the disk"
            )

    @staticmethod
    def _used_and_free(connection: sqlite3.Connection) -> tuple[int, int]:
        [(used, free)] = connection.execute(_PAGES).fetchall()
        return used, free


def send(connection: sqlite3.Connection, queue: int, messages: Iterable[Outgoing], room: Room) -> None:
    """Add messages, in order. Runs within a write transaction.

    Raises:
        SourceFull: There is no room for all of them.
    """
    now = time.time()
    ready = _Insertion(connection, _INSERT_READY, {"queue": queue, "now": now}, room)
    delayed = _Insertion(connection, _INSERT_DELAYED, {"queue": queue, "now": now}, room)
    for message in messages:
        if message.delay > 0:
            delayed.add(message, message.delay)
        else:
            ready.add(message)
    ready.flush()
    delayed.flush()


class _Insertion:
    """Collects messages for one statement: their bodies joined, and where each one begins."""

    def __init__(self, connection: sqlite3.Connection, statement: str, given: dict[str, Any], room: Room) -> None:
        self._connection = connection
        self._statement = statement
        self._given = given
        self._room = room
        self._rows: list[tuple[object, ...]] = []
        self._bodies: list[bytes] = []
        self._start = 1  # substr() counts from 1

    def add(self, message: Outgoing, *more: float) -> None:
        body = message.body
        headers = message.headers
        self._rows.append(
            (
                as_storable(message.message_id),
                json.dumps(dict(headers)) if headers else None,
                self._start,
                len(body),
                *more,
            )
        )
        self._bodies.append(body)
        self._start += len(body)
        if self._start > _JOINED_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            bodies = b"".join(self._bodies)
            self._room.check(self._connection, len(bodies))
            given = {**self._given, "rows": as_json(self._rows), "bodies": bodies}
            self._connection.execute(self._statement, given)
        self._rows, self._bodies, self._start = [], [], 1
