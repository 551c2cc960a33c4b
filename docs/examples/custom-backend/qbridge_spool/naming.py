"""MessageName: all that the queue knows of a message, in the name of its file.

A rename is atomic. So whatever changes together stands in the name, and one rename changes all of it.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

__all__ = ["MessageName", "new_token"]

_PATTERN = re.compile(r"(\d{20})\.(\d{20}-[0-9a-f]{8})\.(\d+)\.(\d+)\.(bare|noted)(?:\.[0-9a-f]{8})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageName:
    """The name of a message's file, in any folder of the queue.

    Attributes:
        due: When it may be claimed, or when it died, in nanoseconds since the epoch. Files are sorted by it.
        key: The message's own name, which it keeps: when it was sent, and a random part.
        attempts: Starts of a handler.
        crashes: How often its lease ran out.
        is_noted: Whether a line of JSON stands before the body; see `content`.
    """

    due: int
    key: str
    attempts: int = 0
    crashes: int = 0
    is_noted: bool = False

    def __str__(self) -> str:
        kind = "noted" if self.is_noted else "bare"
        return f"{self.due:020d}.{self.key}.{self.attempts}.{self.crashes}.{kind}"

    @property
    def sent(self) -> float:
        """When it was sent, in seconds since the epoch."""
        return int(self.key.partition("-")[0]) / 1e9

    @classmethod
    def new(cls, sent: int, *, delay: float = 0.0, is_noted: bool = False) -> MessageName:
        """Name a message that was sent at `sent`, in nanoseconds since the epoch."""
        return cls(due=sent + int(delay * 1e9), key=f"{sent:020d}-{new_token()}", is_noted=is_noted)

    @classmethod
    def parse(cls, text: str) -> MessageName | None:
        """Read a file's name, that of a claimed file too; None if somebody else gave it."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            return None
        due, key, attempts, crashes, kind = match.groups()
        return cls(due=int(due), key=key, attempts=int(attempts), crashes=int(crashes), is_noted=kind == "noted")


def new_token() -> str:
    """Return eight random hexadecimal digits."""
    return uuid.uuid4().hex[:8]
