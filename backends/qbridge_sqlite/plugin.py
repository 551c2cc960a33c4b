"""What the entry point names."""

from __future__ import annotations

from qbridge import Backend
from qbridge_sqlite.options import SqliteOptions
from qbridge_sqlite.source import CAPABILITIES, SqliteSource

__all__ = ["backend"]

backend = Backend(
    name="sqlite",
    summary="queues in one file, for many processes on one machine; no server",
    options=SqliteOptions,
    capabilities=CAPABILITIES,
    create=SqliteSource,
    needs={"sqlite3": "a Python that was built with SQLite"},
    example={"path": "./qbridge.db"},
)
