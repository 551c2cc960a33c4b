"""Opening the file: one connection, set up for many processes, and the waiting for its locks."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from qbridge import SourceMisconfigured, SourceUnavailable
from qbridge_sqlite.failures import is_busy, refusal_to_open, translate
from qbridge_sqlite.options import SqliteOptions
from qbridge_sqlite.schema import create_or_check, queue_number

__all__ = ["Connection"]

#: For UPDATE … FROM and the JSON functions.
_OLDEST_SQLITE = (3, 35)

#: Milliseconds that SQLite itself waits for a lock. We go on from there, to see in between whether we are to stop.
_BUSY_SLICE = 100

_SETTINGS = (
    f"PRAGMA busy_timeout = {_BUSY_SLICE}",
    # Zero what is deleted where that costs no further page: Debian's default zeroes pages that nobody will read.
    "PRAGMA secure_delete = FAST",
    # Pages in the write-ahead log before a commit moves them to the file, which lets the log begin anew.
    "PRAGMA wal_autocheckpoint = 1000",
    # Bytes to which a log is cut that once grew larger, after one large transaction, say.
    f"PRAGMA journal_size_limit = {16 * 2**20}",
    # With synchronous = FULL: on macOS, too, wait until it is on the disk and not only in the disk's memory.
    "PRAGMA fullfsync = 1",
    # KiB of page cache.
    "PRAGMA cache_size = -8192",
    "PRAGMA temp_store = MEMORY",
)

ResultT = TypeVar("ResultT")


class Connection:
    """A connection to the file, set up; belongs to the thread that makes it.

    Args:
        name: The queue's name.
        path: The file, absolute.
        options: How to open it.
        stopping: Set when the thread is to end: waiting for a lock is then given up.

    Raises:
        SourceMisconfigured: The file can't be opened, or isn't ours.
        SourceUnavailable: It stayed locked.
    """

    def __init__(self, name: str, path: Path, options: SqliteOptions, stopping: threading.Event) -> None:
        self._options = options
        self._path = path
        self._stopping = stopping
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            oldest = ".".join(map(str, _OLDEST_SQLITE))
            raise SourceMisconfigured(f"SQLite {sqlite3.sqlite_version} is too old: install {oldest} or later")
        if refusal := refusal_to_open(self._path):
            raise SourceMisconfigured(refusal)
        #: The connection itself. It begins no transaction by itself.
        self.sqlite: sqlite3.Connection
        try:
            self.sqlite = sqlite3.connect(self._path, timeout=_BUSY_SLICE / 1000, isolation_level=None)
            try:
                #: `queues.id` of the queue.
                self.queue = self._set_up(name)
            except BaseException:
                self.sqlite.close()
                raise
        except sqlite3.Error as exc:
            raise translate(exc, self._path, busy_timeout=options.busy_timeout) from exc
        self._identity = _identity(self._path)

    def while_busy(self, operation: Callable[[], ResultT]) -> ResultT:
        """Return what `operation` returns; repeat it, for up to `busy_timeout`, while another process holds a lock.

        Raises:
            sqlite3.Error: The lock stayed taken, or something else failed. `operation` left no transaction open.
        """
        end = time.monotonic() + self._options.busy_timeout
        while True:
            began = time.monotonic()
            try:
                return operation()
            except sqlite3.OperationalError as exc:
                if not is_busy(exc) or time.monotonic() >= end or self._stopping.is_set():
                    raise
            # Some locks SQLite doesn't wait for at all.
            if time.monotonic() - began < _BUSY_SLICE / 2000:
                self._stopping.wait(_BUSY_SLICE / 10000)

    def begin(self, *, writes: bool) -> None:
        """Begin a transaction; a writing one takes the write lock.

        A transaction that reads first and writes later can't wait for the lock: SQLite refuses at once.
        """
        self.sqlite.execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    def commit(self) -> None:
        """End the transaction; with `synchronous: full` it is on the disk then."""
        self.sqlite.execute("COMMIT")

    def roll_back(self) -> None:
        """Undo the transaction, if SQLite hasn't done so itself."""
        if self.sqlite.in_transaction:
            self.sqlite.execute("ROLLBACK")

    def check_file(self) -> None:
        """See that the file still is the one that was opened: what is written to a deleted file is lost.

        Raises:
            SourceUnavailable: It isn't; opening it again makes it anew.
        """
        if _identity(self._path) != self._identity:
            raise SourceUnavailable(f"{str(self._path)!r} was deleted or replaced while it was open")

    def _set_up(self, name: str) -> int:
        connection = self.sqlite
        # Names come from whoever wrote the file; one that isn't UTF-8 must not make its message unreadable.
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        # Even a setting reads the file, and may find it locked.
        for setting in (*_SETTINGS, f"PRAGMA synchronous = {self._options.synchronous.upper()}"):
            self.while_busy(partial(connection.execute, setting))
        number = self.while_busy(partial(self._make_tables, name))
        [(mode,)] = self.while_busy(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchall())
        if mode != "wal":
            raise SourceMisconfigured(
                f"can't use {str(self._path)!r}: its file system doesn't allow SQLite's write-ahead log "
                f"(the journal mode stays {mode}); put it on a disk of this machine"
            )
        return number

    def _make_tables(self, name: str) -> int:
        # A write transaction even if all is there: a file that can't be written is found now, not at the first message.
        self.begin(writes=True)
        try:
            create_or_check(self.sqlite, self._path)
            number = queue_number(self.sqlite, name)
            self.commit()
        except BaseException:
            self.roll_back()
            raise
        return number


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # a third of the time of Path.stat, on each transaction
    except OSError:
        return None
    return found.st_dev, found.st_ino
