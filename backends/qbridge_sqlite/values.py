"""How values are written for SQLite: JSON lists, names, and receipts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from qbridge import MAX_ERRORS_KEPT, Delivery

__all__ = [
    "DELIVERY_BITS",
    "DELIVERY_MASK",
    "appended_errors",
    "as_json",
    "as_receipt",
    "as_storable",
    "message_ids",
    "receipts_of",
]

#: A receipt is a message's id and, in this many low bits, the count of its deliveries. Two receipts are equal only if
#: a message is delivered 65,536 times between the claim and the settlement of one delivery.
DELIVERY_BITS = 16
DELIVERY_MASK = (1 << DELIVERY_BITS) - 1

_encode = json.JSONEncoder(separators=(",", ":")).encode


def as_json(rows: Sequence[object]) -> str:
    """Return `rows` as the JSON text that a statement reads with json_each()."""
    return _encode(rows)


def as_storable(text: str) -> str:
    """Return `text` without what SQLite cuts off or can't give back: NUL characters and lone surrogates."""
    if text.isprintable():
        return text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def as_receipt(number: int, deliveries: int) -> int:
    """Return the receipt of the `deliveries`-th delivery of the message with the id `number`."""
    return number << DELIVERY_BITS | deliveries & DELIVERY_MASK


def receipts_of(deliveries: Iterable[Delivery]) -> list[int]:
    """Return the receipts of deliveries that this backend made."""
    # The contract has them opaque.
    receipts: list[Any] = [delivery.receipt for delivery in deliveries]
    return receipts


def message_ids(receipts: Iterable[int]) -> list[int]:
    """Return the ids of the messages that `receipts` are for."""
    return [receipt >> DELIVERY_BITS for receipt in receipts]


def appended_errors(errors: str | None, error: str) -> str | None:
    """Return the error history `errors` (JSON, or None) with `error` as its newest, unless that is ""."""
    if not error:
        return errors
    history = json.loads(errors) if errors else []
    return _encode([*history, error][-MAX_ERRORS_KEPT:])
