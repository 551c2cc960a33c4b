"""The sqlite backend keeps the rules."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbridge.testing import SourceConformance
from qbridge_sqlite import SqliteOptions, SqliteSource, backend
from tests.conformance.dying_consumer import kill_consumers_process


class TestSqlite(SourceConformance):
    """The sqlite backend with its default durability."""

    capabilities = backend.capabilities

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> Iterator[None]:
        """Give each test a file of its own."""
        self.path = tmp_path / "queue.db"
        with contextlib.ExitStack() as self.resources:
            yield

    def new_source(self, lease: float) -> SqliteSource:
        """Make a source of that file."""
        return SqliteSource("q", SqliteOptions.model_validate(self._options(lease)))

    def new_unreachable_source(self) -> SqliteSource:
        """Make a source of a file that somebody else has locked."""
        other = self.resources.enter_context(contextlib.closing(sqlite3.connect(self.path)))
        other.execute("BEGIN EXCLUSIVE")
        return SqliteSource("q", SqliteOptions(path=self.path, busy_timeout=0.1))

    async def restart(self) -> None:
        """Do nothing: there is no server, and the tests close and open the source."""

    async def kill_consumer(self, count: int) -> None:
        """Kill a process that has claimed."""
        await kill_consumers_process("sqlite", "q", self._options(self.short_lease), count)

    def _options(self, lease: float) -> dict[str, object]:
        return {"path": str(self.path), "lease": lease}
