"""MessageTable: the statements that claim and lease the messages of one queue, and count them.

**One step for each batch.** Python's sqlite3 lets go of the GIL at each step of a statement, that is for each row
written by `executemany` and for each row read. While a handler computes in another thread, getting it back takes up to
a switch interval: claiming 100 messages row by row, with RETURNING, took 12 ms beside a busy handler, sending them 27
ms; as one step 2.5 and 1 ms, and alone no more than before (CPython 3.11, 2 cores, 2026-11). So a batch goes in as one
JSON text and one BLOB of all bodies, comes out as one row, and what settles many rows is one statement.

Each method runs within a transaction that its caller begins and commits; `look` needs none.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from qbridge import Delivery, QueueStats
from qbridge_sqlite.requests import Claimed
from qbridge_sqlite.schema import CLAIMED, DELAYED, READY
from qbridge_sqlite.values import DELIVERY_BITS, DELIVERY_MASK, as_json, as_receipt, message_ids, receipts_of

__all__ = ["MessageTable"]

#: Messages that one transaction takes, brings back or makes ready at most, so that no other process waits long.
_BATCH = 1000

#: Bytes of a body that is read together with the others of its claim; larger ones are read one by one.
_SMALL_BODY = 64 * 2**10

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})

_NEXT_DUE = f"""
    (SELECT due FROM messages WHERE queue = :queue AND state = {DELAYED} ORDER BY due LIMIT 1),
    (SELECT due FROM messages WHERE queue = :queue AND state = {CLAIMED} ORDER BY due LIMIT 1)
"""

_LOOK = f"SELECT EXISTS (SELECT 1 FROM messages WHERE queue = :queue AND state = {READY}), {_NEXT_DUE}"

# Joined as text, since group_concat() takes nothing else; it doesn't look at the bytes, and CAST gives them back.
_READ_READY = f"""
    SELECT json_group_array(json_array(id, deliveries, attempts, crashes, enqueued_at, message_id, headers, size)),
           CAST(group_concat(small_body, '') AS BLOB),
           {_NEXT_DUE}
    FROM (
        SELECT id, deliveries, attempts, crashes, enqueued_at, message_id, headers, length(body) AS size,
               CASE WHEN length(body) <= {_SMALL_BODY} THEN body END AS small_body
        FROM messages WHERE queue = :queue AND state = {READY} ORDER BY id LIMIT :limit
    )
"""

# The same rows: what is ready was read in the order of ids, up to the last one, in this transaction. Naming each id
# instead takes 0.4 µs more for a message (CPython 3.11, 2026-11).
_TAKE = f"""
    UPDATE messages SET state = {CLAIMED}, deliveries = deliveries + 1, attempts = attempts + 1, due = :due
    WHERE queue = :queue AND state = {READY} AND id <= :last
"""

# The id stays, and so does the place: before everything that was never claimed.
_BRING_BACK_LAPSED = f"""
    UPDATE messages SET state = {READY}, crashes = crashes + 1, ready_at = due
    WHERE id IN (
        SELECT id FROM messages WHERE queue = :queue AND state = {CLAIMED} AND due <= :now ORDER BY due LIMIT {_BATCH}
    )
"""

_COPY_DUE = f"""
    INSERT INTO messages (queue, state, deliveries, attempts, crashes, due, ready_at, enqueued_at, message_id, headers,
                          errors, body)
    SELECT queue, {READY}, deliveries, attempts, crashes, due, due, enqueued_at, message_id, headers, errors, body
    FROM messages WHERE queue = :queue AND state = {DELAYED} AND due <= :now ORDER BY due, id LIMIT {_BATCH}
"""
_DELETE_DUE = f"""
    DELETE FROM messages WHERE id IN (
        SELECT id FROM messages WHERE queue = :queue AND state = {DELAYED} AND due <= :now
        ORDER BY due, id LIMIT {_BATCH}
    )
"""

_HELD = f"""
    FROM json_each(:receipts) AS given CROSS JOIN messages
    ON messages.id = given.value >> {DELIVERY_BITS} AND messages.state = {CLAIMED}
    AND messages.deliveries & {DELIVERY_MASK} = given.value & {DELIVERY_MASK}
"""
_COUNT_HELD = f"SELECT count(*) {_HELD}"
_LIST_HELD = f"SELECT json_group_array(given.value) {_HELD}"

_RENEW = "UPDATE messages SET due = :due WHERE id IN (SELECT value FROM json_each(:ids))"

_COUNT = f"""
    SELECT
        (SELECT count(*) FROM messages WHERE queue = :queue AND state = {READY}),
        (SELECT count(*) FROM messages WHERE queue = :queue AND state = {DELAYED} AND due > :now),
        (SELECT count(*) FROM messages WHERE queue = :queue AND state = {DELAYED} AND due <= :now),
        (SELECT count(*) FROM messages WHERE queue = :queue AND state = {CLAIMED} AND due > :now),
        (SELECT count(*) FROM messages WHERE queue = :queue AND state = {CLAIMED} AND due <= :now),
        (SELECT count(*) FROM dead_letters WHERE queue = :queue)
"""

# What a claim would take first: what is ready or has lapsed, by place; then what is due.
_OLDEST = f"""
    SELECT due FROM (
        SELECT * FROM (SELECT 1 AS turn, id, due FROM messages WHERE queue = :queue AND state = {READY}
                       ORDER BY id LIMIT 1)
        UNION ALL
        SELECT 1, min(id), due FROM messages WHERE queue = :queue AND state = {CLAIMED} AND due <= :now
        UNION ALL
        SELECT * FROM (SELECT 2, id, due FROM messages WHERE queue = :queue AND state = {DELAYED} AND due <= :now
                       ORDER BY due, id LIMIT 1)
    ) WHERE id IS NOT NULL ORDER BY turn, id LIMIT 1
"""


class MessageTable:
    """The messages of one queue; belongs to the thread of its connection.

    Args:
        connection: To the file.
        queue: `queues.id` of the queue.
        lease: Seconds of a lease.
    """

    def __init__(self, connection: sqlite3.Connection, queue: int, *, lease: float) -> None:
        self._connection = connection
        self._queue = queue
        self._lease = lease

    def look(self) -> float:
        """Return the seconds until there may be something to claim: 0 if there is now, infinite if never by itself."""
        [(is_ready, *dues)] = self._connection.execute(_LOOK, {"queue": self._queue}).fetchall()
        return 0.0 if is_ready else _pause(dues, time.time())

    def claim(self, limit: int) -> Claimed:
        """Take up to `limit` messages; before, bring back what has lapsed and make ready what is due."""
        now = time.time()
        given = {"queue": self._queue, "limit": min(limit, _BATCH), "now": now}
        [(rows, bodies, *dues)] = self._connection.execute(_READ_READY, given).fetchall()
        if _pause(dues, now) <= 0:
            self._connection.execute(_BRING_BACK_LAPSED, given)
            self.bring_back_due(now)
            [(rows, bodies, *dues)] = self._connection.execute(_READ_READY, given).fetchall()
        if rows == "[]":
            return Claimed([], _pause(dues, now))
        ready = json.loads(rows)
        deliveries: list[Delivery] = []
        start = 0
        for number, delivered, attempts, crashes, enqueued_at, message_id, headers, size in ready:
            if size <= _SMALL_BODY:
                end = start + size
                body = bodies[start:end]
                start = end
            else:
                [(body,)] = self._connection.execute("SELECT body FROM messages WHERE id = ?", (number,)).fetchall()
            deliveries.append(
                Delivery(
                    body=body,
                    receipt=as_receipt(number, delivered + 1),
                    message_id=message_id,
                    attempt=attempts + 1,
                    crashes=crashes,
                    headers=_NO_HEADERS if headers is None else json.loads(headers),
                    enqueued_at=enqueued_at,
                )
            )
        self._connection.execute(_TAKE, {"queue": self._queue, "due": now + self._lease, "last": ready[-1][0]})
        return Claimed(deliveries)

    def bring_back_due(self, now: float) -> None:
        """Put a batch of delayed messages whose time has come at the end of the queue, in the order of their times."""
        given = {"queue": self._queue, "now": now}
        if self._connection.execute(_COPY_DUE, given).rowcount:
            self._connection.execute(_DELETE_DUE, given)

    def held(self, receipts: Sequence[int]) -> set[int]:
        """Return those of `receipts` whose deliveries are still in flight.

        A lease that ran out while nobody took the message still holds: that saves running it twice.
        """
        given = {"receipts": as_json(receipts)}
        [(count,)] = self._connection.execute(_COUNT_HELD, given).fetchall()
        if count == len(receipts):
            return set(receipts)
        [(listed,)] = self._connection.execute(_LIST_HELD, given).fetchall()
        return set(json.loads(listed))

    def keep_alive(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Let the leases begin anew; return the deliveries that are no longer in flight."""
        held = self.held(receipts_of(deliveries))
        renewal = {"due": time.time() + self._lease, "ids": as_json(message_ids(held))}
        self._connection.execute(_RENEW, renewal)
        return [delivery for delivery in deliveries if delivery.receipt not in held]

    def stats(self) -> QueueStats:
        """Count. What is due or has lapsed counts as ready, as the next claim may take it."""
        now = time.time()
        given = {"queue": self._queue, "now": now}
        [(ready, delayed, due, in_flight, lapsed, dead)] = self._connection.execute(_COUNT, given).fetchall()
        oldest = self._connection.execute(_OLDEST, given).fetchall()
        return QueueStats(
            ready=ready + due + lapsed,
            delayed=delayed,
            in_flight=in_flight,
            dead=dead,
            oldest_age=max(now - oldest[0][0], 0.0) if oldest else 0.0,
        )


def _pause(dues: Iterable[float | None], now: float) -> float:
    return max(min((due for due in dues if due is not None), default=float("inf")) - now, 0.0)
