"""Sendings: what a producer tried to send and what the broker has accepted, told line by line in a file.

A line is written before each attempt, and another one when the broker has the message, each with one write to a file
opened with O_APPEND: several producers may share it, and it tells the truth whatever kills them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENDS", "Sending", "SendingBook", "SendingWriter"]

#: What becomes of an ordinary message: a handler ends. Other outcomes are the reason codes of dead letters.
ENDS = frozenset({"end"})


@dataclass(slots=True)
class Sending:
    """One message that a producer has tried to send.

    Attributes:
        message_id: Its `TaskMessage.id`.
        attempted_at: Monotonic seconds right before the attempt.
        delay: Seconds that it must not be claimed before.
        outcomes: What may become of it: "end", or reason codes of dead letters.
        accepted_at: Monotonic seconds when the broker had it; None if it was never said to have it.
    """

    message_id: str
    attempted_at: float
    delay: float = 0.0
    outcomes: frozenset[str] = ENDS
    accepted_at: float | None = None


class SendingWriter:
    """Writes the file `sendings` of a folder."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "sendings", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def attempt(self, ids: Iterable[str], *, delay: float = 0.0, outcomes: frozenset[str] = ENDS) -> None:
        """Note that these messages are about to be sent."""
        end = f"{time.monotonic():.6f} {delay} {','.join(sorted(outcomes))}\n"
        os.write(self._file, "".join(f"attempt {each} {end}" for each in ids).encode())

    def accept(self, ids: Iterable[str]) -> None:
        """Note that the broker has these messages."""
        now = time.monotonic()
        os.write(self._file, "".join(f"accept {each} {now:.6f}\n" for each in ids).encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class SendingBook:
    """Reads that file as it grows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sendings"
        self._offset = 0
        #: All messages that anybody tried to send, by id, in the order of the attempts.
        self.sendings: dict[str, Sending] = {}
        #: The ids of those that the broker has accepted, in the order in which it did.
        self.accepted: list[str] = []

    def read(self) -> SendingBook:
        """Read what was added; return itself."""
        if not self._path.exists():
            return self
        with self._path.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        complete = added[: added.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.decode().splitlines():
            kind, message_id, at, *more = line.split()
            if kind == "attempt":
                delay, outcomes = more
                self.sendings[message_id] = Sending(message_id, float(at), float(delay), frozenset(outcomes.split(",")))
            else:
                self.sendings[message_id].accepted_at = float(at)
                self.accepted.append(message_id)
        return self
