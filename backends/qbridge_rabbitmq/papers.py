"""The travel papers of a message: which properties and headers say what. Imports the client library.

Attempts, crashes and errors stand in headers of ours, on the copy that a retry or a release publishes. Names that begin
with `x-` are the broker's: since 4.0 it takes no `x-death` from a client. What a message has beside is kept as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from struct import Struct
from typing import Any

from pika import BasicProperties
from pika.exceptions import ShortStringTooLong

from qbridge import MAX_ERROR_LENGTH, MAX_ERRORS_KEPT, Outgoing, SourceMisconfigured

__all__ = [
    "ATTEMPTS",
    "CRASHES",
    "DIED_AT",
    "ERRORS",
    "NOT_BEFORE",
    "REASON",
    "Papers",
    "Plain",
    "copy",
    "fresh",
    "glance",
    "read",
]

ATTEMPTS = "qbridge-attempts"
CRASHES = "qbridge-crashes"
ERRORS = "qbridge-errors"
REASON = "qbridge-reason"
DIED_AT = "qbridge-died-at"
NOT_BEFORE = "qbridge-not-before"
_OWN = frozenset({ATTEMPTS, CRASHES, ERRORS, REASON, DIED_AT, NOT_BEFORE})

#: What the broker writes; it is told to nobody and never sent back.
_BROKERS = frozenset(
    {
        "x-acquired-count",
        "x-death",
        "x-delivery-count",
        *(f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")),
    }
)

#: With these the broker would give a copy to more queues.
_ROUTES = frozenset({"CC", "BCC"})

#: Bytes of all errors of a message: a message's headers must fit into one frame, usually of 128 KiB.
_MOST_ERROR_BYTES = 48 * 1024

_PERSISTENT = 2

#: Where a content header says which properties follow, and what it says if they are those of `fresh`. They follow in
#: the order of these constants.
_FLAGS = slice(12, 14)
_FRESH = (
    BasicProperties.FLAG_DELIVERY_MODE | BasicProperties.FLAG_MESSAGE_ID | BasicProperties.FLAG_TIMESTAMP
).to_bytes(2, "big")
_NAME_AT = 16
_MOST_NAME_BYTES = 255
_STAMP = Struct(">Q")


@dataclass(slots=True)
class Papers:
    """What a delivery's properties say. Treated as immutable; frozen it would take 1 µs more to make.

    Attributes:
        message_id: The message's name: its own, or a digest of what was published without one.
        attempts: Starts of a handler before this delivery, crashes included.
        crashes: How many of them ended with the worker.
        not_before: Seconds since the epoch before which it isn't due; 0 if it is.
        enqueued_at: When it was sent, by its sender's clock.
    """

    message_id: str
    attempts: int
    crashes: int
    not_before: float
    enqueued_at: float | None


class Plain:
    """The properties of most messages that are sent: a name and a time. Made and encoded in a third of the time.

    Args:
        message_id: Its name.
        timestamp: Whole seconds since the epoch.
    """

    __slots__ = ("message_id", "timestamp")

    def __init__(self, message_id: str, timestamp: int) -> None:
        self.message_id = message_id
        self.timestamp = timestamp

    def encode(self) -> list[bytes]:
        """Return the same as the client library's properties would.

        Raises:
            pika.exceptions.ShortStringTooLong: The name has more than 255 bytes.
        """
        name = self.message_id.encode()
        if len(name) > _MOST_NAME_BYTES:
            raise ShortStringTooLong(name)
        return [_FRESH, bytes((_PERSISTENT, len(name))), name, _STAMP.pack(self.timestamp)]


def read(properties: Any, body: bytes) -> Papers:
    """Return what a delivery's properties say; foreign or damaged values count as absent."""
    stamp = properties.timestamp
    headers = properties.headers
    if not headers:
        return Papers(properties.message_id or _digest(properties, body), 0, 0, 0.0, _seconds(stamp))
    crashes = _count(headers.get("x-delivery-count"))
    return Papers(
        properties.message_id or _digest(properties, body),
        _count(headers.get(ATTEMPTS)) + crashes,
        _count(headers.get(CRASHES)) + crashes,
        _number(headers.get(NOT_BEFORE)),
        _seconds(stamp),
    )


def glance(header: bytes) -> Papers | None:
    """Return the papers of a message as `fresh` writes it without headers; None of any other.

    Args:
        header: The content header as it came.
    """
    if header[_FLAGS] != _FRESH:
        return None
    stamp_at = _NAME_AT + header[_NAME_AT - 1]
    name = header[_NAME_AT:stamp_at]
    if not name.isascii() or not name:
        return None
    stamp: int = _STAMP.unpack_from(header, stamp_at)[0]
    return Papers(name.decode("ascii"), 0, 0, 0.0, float(stamp) if stamp else None)


def user_headers(properties: Any) -> dict[str, str]:
    """Return the headers that the sender gave, as text; what isn't text is told as JSON."""
    return {
        name: value if type(value) is str else _as_text(value)
        for name, value in (properties.headers or {}).items()
        if name not in _OWN and name not in _BROKERS
    }


def errors_of(properties: Any) -> list[str]:
    """Return the error history, oldest first."""
    errors = (properties.headers or {}).get(ERRORS)
    return [str(error) for error in errors] if isinstance(errors, list) else []


def fresh(message: Outgoing, now: float, not_before: float = 0.0) -> Any:
    """Return the properties of a message that is sent.

    Args:
        message: What is sent.
        now: Seconds since the epoch.
        not_before: When it is due, if no delay queue is that long.

    Raises:
        SourceMisconfigured: A header has a name that can't be used.
    """
    headers: dict[str, Any] | None = None
    if message.headers:
        for name in message.headers:
            if name in _OWN or name in _BROKERS or name in _ROUTES or not 0 < len(name.encode()) < 256:
                raise SourceMisconfigured(
                    f"a message has a header {name[:64]!r}, which RabbitMQ or qbridge keeps for itself"
                )
        headers = dict(message.headers)
    if not_before:
        headers = {**(headers or {}), NOT_BEFORE: repr(not_before)}
    if headers is None:
        return Plain(message.message_id, int(now))
    return BasicProperties(
        message_id=message.message_id, timestamp=int(now), delivery_mode=_PERSISTENT, headers=headers
    )


def copy(
    properties: Any,
    message_id: str,
    *,
    attempts: int = 0,
    crashes: int = 0,
    error: str = "",
    not_before: float = 0.0,
    more: Mapping[str, Any] | None = None,
) -> Any:
    """Return the properties of a message that takes the place of another one.

    Args:
        properties: The other one's.
        message_id: Its name.
        attempts: Starts of a handler so far.
        crashes: How many of them ended with the worker.
        error: Joins its history.
        not_before: When it is due, if no delay queue is that long.
        more: More headers of ours.
    """
    headers = {
        name: _encodable(value)
        for name, value in (properties.headers or {}).items()
        if name not in _OWN and name not in _BROKERS and name not in _ROUTES
    }
    if attempts:
        headers[ATTEMPTS] = attempts
    if crashes:
        headers[CRASHES] = crashes
    if not_before:
        headers[NOT_BEFORE] = repr(not_before)
    errors = _bounded([*errors_of(properties), error] if error else errors_of(properties))
    if errors:
        headers[ERRORS] = errors
    if more:
        headers.update(more)
    # No expiration, as it would be over too early or twice; no user_id, which only that user may send.
    return BasicProperties(
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=headers or None,
        delivery_mode=_PERSISTENT,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        message_id=message_id,
        timestamp=properties.timestamp,
        type=properties.type,
        app_id=properties.app_id,
    )


def _digest(properties: Any, body: bytes) -> str:
    # The broker has no name for a message that would be the same at its next delivery.
    digest = hashlib.sha256(body)
    digest.update(f"\0{properties.timestamp}\0{properties.correlation_id}".encode())
    return digest.hexdigest()[:32]


def _bounded(errors: list[str]) -> list[str]:
    kept: list[str] = []
    room = _MOST_ERROR_BYTES
    for error in reversed(errors[-MAX_ERRORS_KEPT:]):
        # A lone surrogate, such as a file's name may hold, has no UTF-8.
        encoded = error[:MAX_ERROR_LENGTH].encode("utf-8", "backslashreplace")[:room]
        room -= len(encoded)
        kept.append(encoded.decode("utf-8", "ignore"))
        if room <= 0:
            break
    return kept[::-1]


def _encodable(value: Any) -> Any:
    """Return a header's value as the client library can write it: it reads more types than that."""
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    if isinstance(value, dict):
        return {name: _encodable(each) for name, each in value.items()}
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(int(value))
    return value if value is None or isinstance(value, str | bytes | datetime) else str(value)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return json.dumps(value, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _count(value: Any) -> int:
    return min(int(value), 2**31 - 1) if isinstance(value, int) and value > 0 else 0


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def _seconds(stamp: Any) -> float | None:
    return float(stamp) if isinstance(stamp, (int, float)) and stamp > 0 else None
