"""Settling: the four ways in which a batch of deliveries ends, as one statement each."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence

from qbridge import Action, Settled, Settlement
from qbridge_sqlite.schema import DELAYED, READY
from qbridge_sqlite.statements import MessageTable
from qbridge_sqlite.values import appended_errors, as_json, as_storable, message_ids, receipts_of

__all__ = ["settle"]

_DELETE = "DELETE FROM messages WHERE id IN (SELECT value FROM json_each(:ids))"

_RELEASE = f"""
    UPDATE messages SET state = {READY}, attempts = attempts - 1, due = ready_at
    WHERE id IN (SELECT value FROM json_each(:ids))
"""

_RETRY = f"""
    UPDATE messages SET state = {DELAYED}, due = given.due, ready_at = given.due, errors = given.errors
    FROM (
        SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS due,
               json_extract(value, '$[2]') AS errors
        FROM json_each(:rows)
    ) AS given
    WHERE messages.id = given.id
"""

_READ_ERRORS = """
    SELECT json_group_object(id, errors) FROM messages
    WHERE id IN (SELECT value FROM json_each(:ids)) AND errors IS NOT NULL
"""

# A sender may use one id for several messages; the second dead letter of that id gets another name.
_BURY = """
    INSERT INTO dead_letters (queue, name, reason, attempts, died_at, enqueued_at, message_id, headers, errors, body)
    SELECT messages.queue,
           CASE WHEN given.twin > 1 OR EXISTS (
               SELECT 1 FROM dead_letters WHERE dead_letters.queue = messages.queue AND name = messages.message_id
           ) THEN messages.message_id || '~' || messages.id ELSE messages.message_id END,
           given.reason, attempts, :now, enqueued_at, message_id, headers, given.errors, body
    FROM (
        SELECT given.key AS place, json_extract(given.value, '$[0]') AS id,
               json_extract(given.value, '$[1]') AS reason, json_extract(given.value, '$[2]') AS errors,
               row_number() OVER (PARTITION BY named.message_id ORDER BY given.key) AS twin
        FROM json_each(:rows) AS given CROSS JOIN messages AS named ON named.id = json_extract(given.value, '$[0]')
    ) AS given CROSS JOIN messages ON messages.id = given.id
    ORDER BY given.place
"""


def settle(connection: sqlite3.Connection, table: MessageTable, settlements: Sequence[Settlement]) -> list[Settled]:
    """End deliveries; LOST for those that are no longer in flight. Runs within a write transaction.

    Of several settlements of one delivery the first counts; repeating it is DONE, another is LOST.
    """
    receipts = receipts_of(settlement.delivery for settlement in settlements)
    held = table.held(receipts)
    if len(held) == len(settlements) and all(settlement.action is Action.ACK for settlement in settlements):
        connection.execute(_DELETE, {"ids": as_json(message_ids(receipts))})
        return [Settled.DONE] * len(settlements)
    valid: dict[int, Settlement] = {}
    outcomes: list[Settled] = []
    for receipt, settlement in zip(receipts, settlements, strict=True):
        is_done = receipt in held and valid.setdefault(receipt, settlement).action is settlement.action
        outcomes.append(Settled.DONE if is_done else Settled.LOST)
    _apply(connection, table, valid.values())
    return outcomes


def _apply(connection: sqlite3.Connection, table: MessageTable, settlements: Iterable[Settlement]) -> None:
    by_action: dict[Action, list[Settlement]] = {action: [] for action in Action}
    for settlement in settlements:
        by_action[settlement.action].append(settlement)
    if acks := by_action[Action.ACK]:
        connection.execute(_DELETE, {"ids": _ids(acks)})
    if releases := by_action[Action.RELEASE]:
        connection.execute(_RELEASE, {"ids": _ids(releases)})
    if retries := by_action[Action.RETRY]:
        _retry(connection, table, retries)
    if dead := by_action[Action.DEAD_LETTER]:
        rows = [
            (number, as_storable(settlement.reason), errors)
            for number, settlement, errors in _with_errors(connection, dead)
        ]
        connection.execute(_BURY, {"rows": as_json(rows), "now": time.time()})
        connection.execute(_DELETE, {"ids": _ids(dead)})


def _retry(connection: sqlite3.Connection, table: MessageTable, settlements: Sequence[Settlement]) -> None:
    now = time.time()
    rows = [
        (number, now + settlement.delay, errors) for number, settlement, errors in _with_errors(connection, settlements)
    ]
    connection.execute(_RETRY, {"rows": as_json(rows)})
    if any(settlement.delay <= 0 for settlement in settlements):
        table.bring_back_due(now)


def _with_errors(
    connection: sqlite3.Connection, settlements: Sequence[Settlement]
) -> Iterable[tuple[int, Settlement, str | None]]:
    """Yield id, settlement and the error history, as JSON text, that the message has after it."""
    ids = message_ids(receipts_of(settlement.delivery for settlement in settlements))
    [(listed,)] = connection.execute(_READ_ERRORS, {"ids": as_json(ids)}).fetchall()
    before = json.loads(listed)
    for number, settlement in zip(ids, settlements, strict=True):
        yield number, settlement, appended_errors(before.get(str(number)), settlement.error)


def _ids(settlements: Sequence[Settlement]) -> str:
    return as_json(message_ids(receipts_of(settlement.delivery for settlement in settlements)))
