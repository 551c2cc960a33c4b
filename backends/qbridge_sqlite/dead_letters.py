"""Dead letters: listing them, making them ready again, deleting them.

Each function runs within a transaction, and takes a bounded batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qbridge import DeadLetter
from qbridge_sqlite.schema import READY
from qbridge_sqlite.values import as_json

if TYPE_CHECKING:
    import sqlite3  # a Python without it can still load this module

__all__ = ["BATCH", "list_by_names", "list_in_order", "newest", "purge", "redrive"]

#: Dead letters that one transaction makes ready or deletes at most.
BATCH = 500

_FIELDS = "name, body, headers, reason, attempts, errors, enqueued_at, died_at"

_LIST = f"""
    SELECT {_FIELDS} FROM dead_letters WHERE queue = :queue
    AND id > coalesce((SELECT min(id) FROM dead_letters WHERE queue = :queue AND name = :after), 0)
    ORDER BY id LIMIT :limit
"""
_LIST_BY_NAMES = f"""
    SELECT {_FIELDS} FROM dead_letters
    WHERE queue = :queue AND name IN (SELECT value FROM json_each(:names)) ORDER BY id
"""

_NEWEST = "SELECT coalesce(max(id), 0) FROM dead_letters WHERE queue = :queue"
_SELECT = f"SELECT id FROM dead_letters WHERE queue = :queue AND id <= :bound ORDER BY id LIMIT {BATCH}"
_SELECT_BY_NAMES = "SELECT id FROM dead_letters WHERE queue = :queue AND name IN (SELECT value FROM json_each(:names))"

_REVIVE = f"""
    INSERT INTO messages (queue, state, due, ready_at, enqueued_at, message_id, headers, errors, body)
    SELECT queue, {READY}, :now, :now, enqueued_at, message_id, headers, errors, body
    FROM dead_letters WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY id
"""
_DELETE = "DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(:ids))"


def list_in_order(connection: sqlite3.Connection, queue: int, *, after: str | None, limit: int) -> list[DeadLetter]:
    """Return up to `limit`, oldest first, that follow the one called `after`; one that is gone starts at the oldest."""
    return _read(connection, _LIST, {"queue": queue, "after": after, "limit": max(limit, 0)})


def list_by_names(connection: sqlite3.Connection, queue: int, names: Sequence[str]) -> list[DeadLetter]:
    """Return those of `names` that exist, oldest first."""
    return _read(connection, _LIST_BY_NAMES, {"queue": queue, "names": as_json(names)})


def newest(connection: sqlite3.Connection, queue: int) -> int:
    """Return a bound for `redrive` and `purge`: what dies later is beyond it."""
    [(bound,)] = connection.execute(_NEWEST, {"queue": queue}).fetchall()
    return int(bound)


def redrive(connection: sqlite3.Connection, queue: int, which: int | Sequence[str]) -> int:
    """Make a batch ready again, attempts and crashes forgotten, errors kept. Returns how many; 0 if none is left.

    Args:
        connection: To the file.
        queue: `queues.id` of the queue.
        which: The bound up to which all are taken, or at most `BATCH` names.
    """
    ids = _select(connection, queue, which)
    if ids:
        connection.execute(_REVIVE, {"ids": as_json(ids), "now": time.time()})
        connection.execute(_DELETE, {"ids": as_json(ids)})
    return len(ids)


def purge(connection: sqlite3.Connection, queue: int, which: int | Sequence[str]) -> int:
    """Delete a batch, chosen as by `redrive`. Returns how many; 0 if none is left."""
    ids = _select(connection, queue, which)
    if ids:
        connection.execute(_DELETE, {"ids": as_json(ids)})
    return len(ids)


def _select(connection: sqlite3.Connection, queue: int, which: int | Sequence[str]) -> list[int]:
    if isinstance(which, int):
        rows = connection.execute(_SELECT, {"queue": queue, "bound": which}).fetchall()
    else:
        rows = connection.execute(_SELECT_BY_NAMES, {"queue": queue, "names": as_json(which)}).fetchall()
    return [number for (number,) in rows]


def _read(connection: sqlite3.Connection, query: str, given: dict[str, object]) -> list[DeadLetter]:
    return [
        DeadLetter(
            message_id=name,
            body=body,
            headers=json.loads(headers) if headers else {},
            reason=reason,
            attempts=attempts,
            errors=tuple(json.loads(errors)) if errors else (),
            enqueued_at=enqueued_at,
            died_at=died_at,
        )
        for name, body, headers, reason, attempts, errors, enqueued_at, died_at in connection.execute(query, given)
    ]
