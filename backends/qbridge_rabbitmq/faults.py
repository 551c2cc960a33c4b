"""Translate what the client library raises into the contract's errors. Imports the client library."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

from pika import exceptions

from qbridge import SourceError, SourceMisconfigured, SourceUnavailable
from qbridge_rabbitmq.tls import explain

__all__ = ["has_answered", "reply_code", "translate"]

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, NOT_ALLOWED, NOT_IMPLEMENTED = 403, 404, 406, 530, 540

#: Replies that trying again can't change.
_FOR_A_PERSON = {ACCESS_REFUSED, NOT_ALLOWED, NOT_IMPLEMENTED}


def reply_code(exc: BaseException) -> int:
    """Return the code with which the broker closed a channel or a connection; 0 if it didn't."""
    closed = (exceptions.ChannelClosedByBroker, exceptions.ConnectionClosedByBroker)
    return int(exc.reply_code) if isinstance(exc, closed) else 0


def has_answered(exc: BaseException) -> bool:
    """Return whether something took the connection that could not be made; False if nothing listens there."""
    nowhere = (ConnectionRefusedError, socket.gaierror)
    return not any(isinstance(cause, nowhere) for cause in _causes(exc))


def translate(exc: BaseException, where: str, doing: str) -> SourceError:
    """Return the contract's error for `exc`, with `exc` as its cause.

    Args:
        exc: What the client library, the socket or a time limit raised.
        where: The broker's address without credentials.
        doing: What failed, like "consuming".
    """
    if isinstance(exc, SourceError):
        return exc
    fault = _translate(exc, f"RabbitMQ at {where}, {doing}")
    fault.__cause__ = exc
    return fault


def _translate(exc: BaseException, subject: str) -> SourceError:
    causes = list(_causes(exc))
    for cause in causes:
        if (remedy := explain(cause)) is not None:
            return SourceMisconfigured(f"{subject}: {remedy}")
        text = str(cause)
        # While logging in the client library wraps the broker's reply into a guess of what it may mean.
        if isinstance(cause, exceptions.ProbableAuthenticationError | exceptions.ProbableAccessDeniedError):
            if "ACCESS_REFUSED" in text:
                return SourceMisconfigured(
                    f"{subject}: it refuses the user name or the password, or the user may not use the virtual host"
                )
            if "NOT_ALLOWED" in text:
                return SourceMisconfigured(f"{subject}: {_reason(text)} (name another vhost, or create it)")
    cause = causes[-1]
    code = reply_code(cause)
    if code:
        text = str(cause.reply_text)  # type: ignore[attr-defined]  # what has a reply code has a text
        if code in _FOR_A_PERSON or (code == PRECONDITION_FAILED and "larger than" in text):
            return SourceMisconfigured(f"{subject}: {text}")
        return SourceUnavailable(f"{subject}: {text}")
    if isinstance(cause, TimeoutError):
        return SourceUnavailable(f"{subject}: no answer within the time limit")
    return SourceUnavailable(f"{subject}: {str(cause).strip() or type(cause).__name__}")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it wraps: the client library keeps causes in attributes."""
    current: BaseException | None = exc
    for _ in range(8):
        if current is None:
            return
        yield current
        several = getattr(current, "exceptions", None)
        inner = several[-1] if several else getattr(current, "exception", None)
        if inner is None and current.args and isinstance(current.args[0], BaseException):
            inner = current.args[0]
        current = inner if isinstance(inner, BaseException) else None


def _reason(text: str) -> str:
    """Return the broker's own words out of the representation of an exception."""
    start = text.find("NOT_ALLOWED")
    return re.split(r"""["']""", text[start:])[0] if start >= 0 else text
