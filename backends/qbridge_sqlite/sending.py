"""Sending: messages on their way into the table."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable

from qbridge import Outgoing, SourceFull
from qbridge_sqlite.schema import DELAYED, READY
from qbridge_sqlite.values import as_json, as_storable

__all__ = ["send"]

#: Bytes of bodies that are joined for one statement.
_JOINED_BYTES = 16 * 2**20

# Of an empty body substr() makes NULL.
_INSERT = """
    INSERT INTO messages (queue, state, due, ready_at, enqueued_at, message_id, headers, body)
    SELECT ?1, {state}, {due}, {due}, ?2, json_extract(value, '$[0]'), json_extract(value, '$[1]'),
           coalesce(substr(?4, json_extract(value, '$[2]'), json_extract(value, '$[3]')), x'')
    FROM json_each(?3)
"""
_INSERT_READY = _INSERT.format(state=READY, due="?2")
_INSERT_DELAYED = _INSERT.format(state=DELAYED, due="?2 + json_extract(value, '$[4]')")

_USED = (
    "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)


def send(connection: sqlite3.Connection, queue: int, messages: Iterable[Outgoing], *, max_size: int | None) -> None:
    """Add messages, in order. Runs within a write transaction.

    Args:
        connection: To the file.
        queue: `queues.id` of the queue.
        messages: What to add.
        max_size: As in `SqliteOptions`. Only sends are measured by it: what settles messages must never be refused,
            or a full queue could not be emptied.

    Raises:
        SourceFull: The messages in the file take `max_size` bytes.
    """
    if max_size is not None:
        [(used,)] = connection.execute(_USED).fetchall()
        if used >= max_size:
            raise SourceFull(f"the messages in the file take {used} bytes, and its max_size is {max_size}")
    now = time.time()
    ready = _Insertion(connection, _INSERT_READY, queue, now)
    delayed = _Insertion(connection, _INSERT_DELAYED, queue, now)
    for message in messages:
        if message.delay > 0:
            delayed.add(message, message.delay)
        else:
            ready.add(message)
    ready.flush()
    delayed.flush()


class _Insertion:
    """Collects messages for one statement: their bodies joined, and where each one begins."""

    def __init__(self, connection: sqlite3.Connection, statement: str, queue: int, now: float) -> None:
        self._connection = connection
        self._statement = statement
        self._queue = queue
        self._now = now
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
            self._connection.execute(self._statement, (self._queue, self._now, as_json(self._rows), bodies))
        self._rows, self._bodies, self._start = [], [], 1
