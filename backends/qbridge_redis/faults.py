"""Translate what the server and the client library say into the contract's errors. Imports the client library."""

from __future__ import annotations

import hiredis

from qbridge import SourceError, SourceFull, SourceMisconfigured, SourceUnavailable
from qbridge_redis.tls import explain
from qbridge_redis.wire import ServerRefusal

__all__ = ["translate"]

#: First words of error replies that a person must act upon, and what to do.
_FOR_A_PERSON = {
    "WRONGTYPE": "a key of the queue holds another type than a list: give the queue another key, or move that one away",
    "NOPERM": "its ACL forbids this user what the queue needs: on the queue's keys, allow +@read +@write +@scripting "
    "+blmove +client|id +client|unblock +info +time",
    "MOVED": "it is a node of a Redis Cluster and the queue's keys are on another one: give that node's url",
    "CROSSSLOT": "it is a Redis Cluster and its keys are in different slots: give the queue a key without braces",
}
#: What a script says that its user may not run: Redis 7.0, and later ones, give it no code of its own.
_FORBIDDEN_IN_SCRIPTS = ("The user executing the script can't", "ACL failure in script")
_CONFIGURED_WRONG = ("DB index is out of range", "wrong number of arguments for 'auth' command", "unknown command")
_BAD_LOGIN = ("without any password configured", "invalid password")

#: First words that are for programs; what follows says the same to people.
_SAYS_NOTHING = {"ERR", "WRONGPASS", "NOAUTH"}


def translate(exc: BaseException, where: str, doing: str) -> SourceError:
    """Return the contract's error for `exc`, with `exc` as its cause.

    Args:
        exc: What the client library, the socket or a time limit raised.
        where: The server's address without credentials.
        doing: What failed, like "claiming".
    """
    fault = _translate(exc, f"Redis at {where}, {doing}")
    fault.__cause__ = exc
    return fault


def _translate(exc: BaseException, subject: str) -> SourceError:
    text = str(exc).strip()
    code = exc.code if isinstance(exc, ServerRefusal) else ""
    if code in _SAYS_NOTHING:
        text = text.partition(" ")[2]
    if any(known in text for known in _FORBIDDEN_IN_SCRIPTS):
        code = "NOPERM"
    if code in _FOR_A_PERSON:
        return SourceMisconfigured(f"{subject}: {_FOR_A_PERSON[code]}")
    if code == "OOM":
        return SourceFull(f"{subject}: its memory is full: raise its maxmemory, or let workers drain it")
    if code in ("WRONGPASS", "NOAUTH") or any(known in text for known in _BAD_LOGIN):
        return SourceMisconfigured(f"{subject}: it refuses the user name or the password, or wants one: {text}")
    if any(known in text for known in _CONFIGURED_WRONG):
        return SourceMisconfigured(f"{subject}: it refuses what was configured: {text}")
    if (remedy := explain(exc)) is not None:
        return SourceMisconfigured(f"{subject}: {remedy}")
    if isinstance(exc, TimeoutError):
        return SourceUnavailable(f"{subject}: no answer within the time limit")
    if code == "READONLY":
        return SourceUnavailable(f"{subject}: it is a read-only replica")
    if isinstance(exc, hiredis.HiredisError):
        return SourceUnavailable(f"{subject}: it doesn't speak the protocol of Redis: {text}")
    return SourceUnavailable(f"{subject}: {text or type(exc).__name__}")
