"""What SQLite can do with a table of tasks, in a loop that does nothing else.

Each transaction deletes the hundred rows that the one before claimed and claims the next hundred, with a lease, and is
on the disk when it returns: a write-ahead log with `synchronous=FULL`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time

from benchmarks.harness.limits import Limit

LIMITS = (
    Limit(
        key="sqlite-claim-ack-100",
        broker="sqlite",
        title="claim of 100 and removal of the last 100 in one transaction, synchronous=FULL",
    ),
    Limit(
        key="sqlite-insert-1000",
        broker="sqlite",
        title="insertion of 1,000 ready envelopes a transaction, synchronous=FULL",
        beside="enqueue_bulk",
    ),
)

TASKS = 100_000
CLAIMED = 100
INSERTED = 1_000

SCHEMA = """
CREATE TABLE tasks (id INTEGER PRIMARY KEY, body BLOB NOT NULL, lease REAL);
CREATE INDEX ready ON tasks (id) WHERE lease IS NULL;
"""


def envelope(number: int) -> bytes:
    """Return a task as qbridge writes it."""
    told = {"v": 1, "id": f"{number:032x}", "task": "noop", "args": [number], "kwargs": {}, "headers": {}}
    return json.dumps({**told, "enqueued_at": time.time()}, separators=(",", ":")).encode()


def insert(connection: sqlite3.Connection) -> tuple[int, float]:
    """Insert all tasks, so many a transaction."""
    batches = [
        [(envelope(number),) for number in range(first, first + INSERTED)] for first in range(0, TASKS, INSERTED)
    ]
    began = time.perf_counter()
    for batch in batches:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO tasks (body) VALUES (?)", batch)
        connection.execute("COMMIT")
    return TASKS, time.perf_counter() - began


def claim(connection: sqlite3.Connection) -> tuple[int, float]:
    """Claim and remove all tasks, so many a transaction."""
    insert(connection)
    done: list[tuple[int]] = []
    claimed = 0
    began = time.perf_counter()
    while True:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM tasks WHERE id = ?", done)
        rows = connection.execute(
            "UPDATE tasks SET lease = ? WHERE id IN (SELECT id FROM tasks WHERE lease IS NULL ORDER BY id LIMIT ?)"
            " RETURNING id, body",
            (time.time() + 30, CLAIMED),
        ).fetchall()
        connection.execute("COMMIT")
        if not rows:
            break
        done = [(row[0],) for row in rows]
        claimed += len(rows)
    seconds = time.perf_counter() - began
    (left,) = connection.execute("SELECT count(*) FROM tasks").fetchone()
    if claimed != TASKS or left:
        raise RuntimeError(f"{claimed} of {TASKS} tasks were claimed, and {left} are left")
    return claimed, seconds


def main(key: str) -> None:
    """Measure one limit."""
    connection = sqlite3.connect(os.environ["BENCH_URL"], isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(SCHEMA)
        tasks, seconds = claim(connection) if key == "sqlite-claim-ack-100" else insert(connection)
    finally:
        connection.close()
    print(json.dumps({"tasks": tasks, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
