"""Sources of one file, and other processes that use it too."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qbridge import Delivery, Outgoing
from qbridge_sqlite import SqliteSource, backend
from qbridge_sqlite.wakeup import wake_folder

ROLES = Path(__file__).with_name("sqlite_roles.py")
PATIENCE = 20.0  # seconds in which what must happen has happened, on a busy machine

SourceFactory = Callable[..., Awaitable[SqliteSource]]


class OtherProcess:
    """A process that plays a role of `sqlite_roles.py`.

    Args:
        process: Started with pipes.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def say(self, text: str) -> None:
        """Write a line to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())

    async def line(self) -> str:
        """Return the next line it prints, "" at its end."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self._process.stdout.readline()).decode().strip()

    async def rest(self) -> list[str]:
        """Return the lines it still prints, once it has ended."""
        lines = []
        while line := await self.line():
            lines.append(line)
        async with asyncio.timeout(PATIENCE):
            await self._process.wait()
        return lines

    async def finish(self) -> list[str]:
        """Ask it to end, as SIGTERM does; return the lines it still prints."""
        if self._process.returncode is None:
            self._process.terminate()
        return await self.rest()

    async def kill(self) -> list[str]:
        """End it with SIGKILL; return what it had printed."""
        if self._process.returncode is None:
            self._process.kill()
        return await self.rest()

    @property
    def code(self) -> int | None:
        """Its exit code."""
        return self._process.returncode


@pytest.fixture
def path() -> Iterator[Path]:
    """A file that doesn't exist yet, alone in its folder; short enough to have its sockets beside it."""
    with tempfile.TemporaryDirectory(prefix="q") as folder:
        yield Path(folder) / "q.db"


class WallClock:
    """The time of day, as a test sets it; seconds since the epoch."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.25

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass, for leases, delays and ages."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """Stands still until the test moves it."""
    clock = WallClock()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
async def open_source(path: Path) -> AsyncIterator[SourceFactory]:
    """Opens sources of that file: `await open_source(name="q", lease=60, …options)`; closes them at the end."""
    opened: list[SqliteSource] = []

    async def open_one(name: str = "q", **options: Any) -> SqliteSource:
        source = make_source(path, name, **options)
        opened.append(source)
        await source.open()
        return source

    yield open_one

    for source in reversed(opened):
        await source.close()


@pytest.fixture
async def start(path: Path) -> AsyncIterator[Callable[..., Awaitable[OtherProcess]]]:
    """Starts another process in a role: `await start("produce", path, …)`; the path is the test's if it is left out."""
    started: list[OtherProcess] = []

    async def start_one(role: str, *given: object, at: Path = path) -> OtherProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            os.fspath(ROLES),
            role,
            os.fspath(at),
            *map(str, given),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        started.append(other := OtherProcess(process))
        return other

    yield start_one

    for other in started:
        await other.kill()


def make_source(path: Path, name: str = "q", **options: Any) -> SqliteSource:
    """Return an unopened source."""
    source = backend.create(name, backend.options.model_validate({"path": path, "lease": 60, **options}))
    assert isinstance(source, SqliteSource)
    return source


def outgoing(*bodies: str, delay: float = 0.0) -> list[Outgoing]:
    """Return a message for each body, with the body for its id."""
    return [Outgoing(body=body.encode(), message_id=body, delay=delay) for body in bodies]


def bodies(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the bodies of deliveries as text."""
    return [delivery.body.decode() for delivery in deliveries]


async def claim(source: SqliteSource, count: int, *, within: float = PATIENCE) -> list[Delivery]:
    """Receive until `count` deliveries are there, or nothing more came `within` seconds."""
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        received = await source.receive(count - len(deliveries), within)
        if not received:
            break
        deliveries += received
    return deliveries


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when `holds` does; for what only looking can tell, as another process does it."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)


async def until_somebody_listens(path: Path) -> None:
    """Return when a source waits for the wake-ups of the database."""

    async def listens() -> bool:
        return bool(entries(wake_folder(path)))

    await until(listens)


def entries(folder: Path) -> list[str]:
    """Return the sorted names in a folder; none if there is no folder."""
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def make_file(path: Path, content: bytes = b"", *, mode: int = 0o644) -> None:
    """Write a file."""
    path.write_bytes(content)
    path.chmod(mode)
