"""The tables in the file: what they hold, how they are made, and who may open them.

The file is qbridge's own: its `application_id` says so, and its `user_version` is the version of the tables.

The `messages` table is made for rewriting little:

- A message's `id` is its place in the queue. What goes to the end of the queue (a retry that is due, say) gets a new
  id, so that ready messages need no order of their own and `(queue)` with the row id is all of their index.
- Each state has a partial index of its own. A claim reads the ready one from its beginning, whatever is delayed, in
  flight or dead beside it.
- Whatever a claim changes keeps its stored size (states of one byte, times of eight), and the body stands last. SQLite
  then overwrites the few bytes in place: claiming a message of 256 KiB writes 12 KiB, not 280 (measured 2026-11).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from qbridge import SourceMisconfigured

__all__ = ["APPLICATION_ID", "CLAIMED", "DELAYED", "READY", "SCHEMA_VERSION", "create_or_check", "queue_number"]

#: "qbrg" in ASCII.
APPLICATION_ID = 0x71627267

#: Of the tables below. A file with a higher one is refused.
SCHEMA_VERSION = 1

#: States of a message. SQLite stores 0 and 1 in no byte at all, so they begin at 2 to be of one size.
READY, DELAYED, CLAIMED = 2, 3, 4

_TABLES = (
    """
    CREATE TABLE queues (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    )
    """,
    f"""
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- place in the queue; never used twice
        queue INTEGER NOT NULL,                -- queues.id
        state INTEGER NOT NULL CHECK (state IN ({READY}, {DELAYED}, {CLAIMED})),
        deliveries INTEGER NOT NULL DEFAULT 0, -- hand-overs; with the id it is the receipt of one of them
        attempts INTEGER NOT NULL DEFAULT 0,   -- starts of a handler
        crashes INTEGER NOT NULL DEFAULT 0,    -- leases that ran out
        due REAL NOT NULL,                     -- delayed: when it is ready; claimed: when its lease runs out
        ready_at REAL NOT NULL,                -- since when it has been ready, or will be
        enqueued_at REAL NOT NULL,             -- all times are seconds since the epoch
        message_id TEXT NOT NULL,              -- the sender's name for it
        headers TEXT CHECK (headers IS NULL OR json_valid(headers)),
        errors TEXT CHECK (errors IS NULL OR json_valid(errors)),
        body BLOB NOT NULL CHECK (typeof(body) = 'blob')
    )
    """,
    f"CREATE INDEX messages_ready ON messages (queue) WHERE state = {READY}",
    f"CREATE INDEX messages_delayed ON messages (queue, due) WHERE state = {DELAYED}",
    f"CREATE INDEX messages_claimed ON messages (queue, due) WHERE state = {CLAIMED}",
    """
    CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- order in which they died; never used twice
        queue INTEGER NOT NULL,
        name TEXT NOT NULL,                    -- message_id, with a suffix if another dead letter has it
        reason TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        died_at REAL NOT NULL,
        enqueued_at REAL NOT NULL,
        message_id TEXT NOT NULL,
        headers TEXT,
        errors TEXT,
        body BLOB NOT NULL
    )
    """,
    "CREATE INDEX dead_letters_in_order ON dead_letters (queue)",
    "CREATE INDEX dead_letters_by_name ON dead_letters (queue, name)",
)


def create_or_check(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in an empty file; else see that they are ours and of a version known here.

    Called within a write transaction, so of several processes that open a file at once one makes the tables.

    Raises:
        SourceMisconfigured: The file belongs to another program or to a newer qbridge.
    """
    application_id = _read_int(connection, "PRAGMA application_id")
    version = _read_int(connection, "PRAGMA user_version")
    if application_id == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise SourceMisconfigured(
                f"can't use {str(path)!r}: its tables have version {version}, and this qbridge knows versions up to "
                f"{SCHEMA_VERSION}; update qbridge here"
            )
        return
    if application_id or version or _read_int(connection, "SELECT count(*) FROM sqlite_master"):
        raise SourceMisconfigured(
            f"can't use {str(path)!r}: it is the database of another program (application_id {application_id}, "
            f"user_version {version}); give qbridge a file of its own"
        )
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def queue_number(connection: sqlite3.Connection, name: str) -> int:
    """Return the id of the queue called `name`, made if it is missing. Called within a write transaction."""
    connection.execute(
        "INSERT INTO queues (name) SELECT :name WHERE :name NOT IN (SELECT name FROM queues)", {"name": name}
    )
    [(number,)] = connection.execute("SELECT id FROM queues WHERE name = ?", (name,)).fetchall()
    return int(number)


def _read_int(connection: sqlite3.Connection, query: str) -> int:
    [(value,)] = connection.execute(query).fetchall()
    return int(value)
