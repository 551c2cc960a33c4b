"""What SQLite's errors mean to a person, and to the core."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from qbridge import SourceError, SourceFull, SourceMisconfigured, SourceUnavailable

__all__ = ["is_busy", "refusal_to_open", "translate"]

_PRIMARY = 0xFF  # the low byte of an extended result code is the primary one

_CANNOT_HELP = {
    sqlite3.SQLITE_NOTADB: "it is not an SQLite database: give another path, or move the file away",
    sqlite3.SQLITE_CORRUPT: "it is damaged: stop all programs that use it, then restore a backup or try "
    "`sqlite3 FILE .recover`",
    sqlite3.SQLITE_READONLY: "it can't be written: check the owner and the mode of the file and of its folder",
    sqlite3.SQLITE_PERM: "it may not be opened: check the owner and the mode of the file and of its folder",
}


def is_busy(exc: sqlite3.Error) -> bool:
    """Return whether another connection holds a lock."""
    return _primary_code(exc) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def translate(exc: sqlite3.Error, path: Path, *, busy_timeout: float, is_send: bool = False) -> SourceError:
    """Return the error of the contract that `exc` stands for; the caller raises it `from exc`.

    Args:
        exc: What SQLite raised.
        path: The database file.
        busy_timeout: Seconds that were waited for a lock, for the text.
        is_send: Whether messages were being added: then a full disk is `SourceFull`.
    """
    code = _primary_code(exc)
    if code in _CANNOT_HELP:
        return SourceMisconfigured(f"can't use {str(path)!r}: {_CANNOT_HELP[code]} (SQLite: {exc})")
    if is_busy(exc):
        return SourceUnavailable(
            f"{str(path)!r} stayed locked by another process for {busy_timeout:g}s: "
            f"look for a long transaction, or raise busy_timeout (SQLite: {exc})"
        )
    if code == sqlite3.SQLITE_FULL:
        kind = SourceFull if is_send else SourceUnavailable
        return kind(f"no room for {str(path)!r}: the disk is full (SQLite: {exc})")
    if code == sqlite3.SQLITE_CANTOPEN and (refusal := refusal_to_open(path)):
        return SourceMisconfigured(refusal)
    return SourceUnavailable(f"SQLite failed on {str(path)!r}: {exc}")


def refusal_to_open(path: Path) -> str:
    """Return what keeps `path` from being opened and what to do about it, or "" if nothing is seen."""
    folder = path.parent
    if os.path.isdir(path):  # noqa: PTH112  # Path.is_dir raises where this user may not look
        return f"can't use {str(path)!r}: it is a folder; give the path of a file in it"
    if not os.path.isdir(folder):  # noqa: PTH112
        return f"can't use {str(path)!r}: no folder {str(folder)!r} can be entered; make it, or correct the path"
    # SQLite puts further files beside the database.
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"can't use {str(path)!r}: its folder can't be written; check the folder's owner and mode"
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):  # noqa: PTH110
        return f"can't use {str(path)!r}: it can't be read and written; check its owner and mode"
    return ""


def _primary_code(exc: sqlite3.Error) -> int:
    return getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY
