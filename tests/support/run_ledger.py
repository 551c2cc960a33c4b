"""Ledger: what handlers have done, told by themselves in a file that survives whatever kills their process.

Handlers append a line at their start and another at their end, each with one write to a file opened with O_APPEND, so
that lines of several processes don't mix and none is lost with its writer:
`start <message id> <process> <attempt> <time>`. The time is of CLOCK_MONOTONIC, which all processes of a machine share;
what a handler knows beside that follows it, such as the pause that it asks for when it fails.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["LEDGER", "Entry", "Ledger"]

#: Head of a module of handlers: `note("start", context)` and `note("end", context)` write a line each.
LEDGER = """\
import os
import time

from qbridge import HandlerRegistry, TaskContext

registry = HandlerRegistry()
ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(kind: str, context: TaskContext) -> None:
    os.write(ledger, f"{kind} {context.id} {os.getpid()} {context.attempt} {time.monotonic():.6f}\\n".encode())

"""


class Entry(NamedTuple):
    """One line."""

    kind: str
    message_id: str
    process: int
    attempt: int
    #: Seconds of CLOCK_MONOTONIC.
    at: float
    #: What the handler knows beside that.
    detail: str = ""


class Ledger:
    """Reads the file as it grows.

    Args:
        folder: Where the handlers run; they write to `ledger` there, which need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger"
        self._offset = 0
        #: All lines read so far, in their order.
        self.entries: list[Entry] = []
        #: How many of them there are of each kind.
        self.count: Counter[str] = Counter()

    def read(self) -> Ledger:
        """Read what was added; return itself."""
        if not self._path.exists():
            return self
        with self._path.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        complete = added[: added.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.decode().splitlines():
            kind, message_id, process, attempt, at, *detail = line.split()
            self.entries.append(Entry(kind, message_id, int(process), int(attempt), float(at), *detail))
            self.count[kind] += 1
        return self

    def ids(self, kind: str) -> Counter[str]:
        """Return how often there is a line of this kind for each message."""
        return Counter(entry.message_id for entry in self.entries if entry.kind == kind)

    def wait(self, enough: Callable[[Ledger], object], *, timeout: float, why: Callable[[], object] = str) -> None:
        """Read until it is enough.

        Args:
            enough: Asked after each look.
            timeout: Seconds.
            why: Gives more to tell if that takes too long.

        Raises:
            AssertionError: It takes too long.
        """
        deadline = time.monotonic() + timeout
        while not enough(self.read()):
            assert time.monotonic() < deadline, f"the ledger has only {dict(self.count)} after {timeout} s: {why()}"
            time.sleep(0.01)
