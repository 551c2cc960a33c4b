"""QueueKeys: the names of the Redis keys that make one queue, all in one hash slot."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["MAX_KEY_LENGTH", "QueueKeys", "check_key"]

#: Characters of a queue's key. Redis would take far more; nobody wants to read them.
MAX_KEY_LENGTH = 512

#: What every key of ours but the list's own contains.
_MARK = ":qbridge:"

_TAGGED = re.compile(r"[^{}]*\{[^{}]+\}[^{}]*")


def check_key(key: str) -> str:
    """Return `key` if it can name a queue's list.

    Raises:
        ValueError: If it is empty, too long, contains characters that don't print or `:qbridge:`, or has braces that
            aren't one hash tag.
    """
    if not key:
        raise ValueError("a key has at least one character")
    if len(key) > MAX_KEY_LENGTH:
        raise ValueError(f"a key has at most {MAX_KEY_LENGTH} characters, not {len(key)}")
    if not key.isprintable():
        raise ValueError(f"the key {key!r} contains characters that don't print")
    if _MARK in key:
        raise ValueError(f"the key {key!r} contains {_MARK!r}, which marks the keys that belong to another queue")
    if ("{" in key or "}" in key) and _TAGGED.fullmatch(key) is None:
        raise ValueError(
            f"the braces of the key {key!r} are not one hash tag: write one pair around some text, or none"
        )
    return key


class QueueKeys(NamedTuple):
    """The keys of one queue, in the order in which every script gets them.

    A message is in one place at a time: a body in `ready` or `arrived`, or an id with its body in `bodies` and the id
    in `due`, `leases` (as part of a receipt) or `dead`.

    Attributes:
        ready: List of bodies: what producers push onto. The only key that others may touch.
        arrived: List of bodies that a blocked worker has taken from `ready` and not yet claimed.
        due: Sorted set of marks (id, attempts, crashes, sent) by the µs at which they may be claimed: delayed, retried,
            released, lapsed and redriven messages.
        leases: Sorted set of receipts by the µs at which they lapse.
        bodies: Hash of ids to bodies.
        marks: Hash of receipts to marks, for claims of messages that were claimed or delayed before.
        errors: Hash of ids to error histories.
        dead: Sorted set of ids by the µs at which they died.
        graves: Hash of ids to what is told of a dead letter.
    """

    ready: str
    arrived: str
    due: str
    leases: str
    bodies: str
    marks: str
    errors: str
    dead: str
    graves: str

    @classmethod
    def of(cls, key: str) -> QueueKeys:
        """Return the keys of the queue whose list is `key`; a hash tag in `key` is kept, else the whole key is one."""
        # The second colon keeps the keys of `{a}` apart from those of `a`.
        base = f"{key}:{_MARK}" if "{" in key else f"{{{key}}}{_MARK}"
        names = ("arrived", "due", "leases", "bodies", "marks", "errors", "dead", "graves")
        return cls(key, *(base + name for name in names))

    def all(self) -> tuple[str, ...]:
        """Return every key, in the scripts' order."""
        return tuple(self)
