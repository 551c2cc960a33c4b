"""What goes wrong with a file, what it is called, and that nothing is lost by it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qbridge import SourceClosed, SourceFull, SourceMisconfigured, SourceUnavailable
from qbridge_sqlite import SqliteSource, connection
from qbridge_sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from tests.backends.sqlite.conftest import (
    PATIENCE,
    ROLES,
    OtherProcess,
    SourceFactory,
    bodies,
    claim,
    entries,
    make_file,
    make_source,
    outgoing,
)

Start = Callable[..., Awaitable[OtherProcess]]


def run_sql(path: Path, *statements: str) -> None:
    """Do something to a database beside qbridge."""
    other = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        other.execute(statement)
    other.close()


def content(path: Path) -> bytes:
    """Return a file's bytes."""
    return path.read_bytes()


async def send_for_ever(source: SqliteSource) -> None:
    """Send messages of 2 kB until that fails."""
    while True:
        await source.send(outgoing("x" * 2000))


async def open_and_receive(source: SqliteSource) -> None:
    """Find out whether a queue can be used."""
    await source.open()
    await source.receive(10, 0)


async def test_a_locked_file_is_unavailable_and_nothing_is_lost(
    open_source: SourceFactory, start: Start, path: Path
) -> None:
    """While another process holds the write lock each call fails after busy_timeout; afterwards all is as it was."""
    source = await open_source(busy_timeout=0.3)
    await source.send(outgoing("a", "b"))
    [held] = await source.receive(1, 0)
    locker = await start("lock")
    assert "locked" == await locker.line()
    began = time.monotonic()

    for call in (source.send(outgoing("c")), source.settle([held.ack()]), source.receive(1, 0)):
        with pytest.raises(SourceUnavailable, match=r"stayed locked by another process for 0\.3s"):
            await call
    waited = time.monotonic() - began
    assert 1 == (await source.stats()).ready, "reading needs no write lock"
    await locker.finish()

    assert 0.9 <= waited < PATIENCE
    assert ["done"] == await source.settle([held.ack()])
    assert ["b"] == bodies(await source.receive(10, 0))


async def test_a_lock_that_is_let_go_in_time_is_waited_for(open_source: SourceFactory, start: Start) -> None:
    """A call that meets the write lock of another process goes on as soon as it is free."""
    source = await open_source(busy_timeout=30)
    locker = await start("lock")
    assert "locked" == await locker.line()
    sending = asyncio.create_task(source.send(outgoing("a")))
    await asyncio.wait([sending], timeout=0.5)
    was_waiting = not sending.done()

    await locker.finish()
    await asyncio.wait_for(sending, PATIENCE)

    assert was_waiting
    assert ["a"] == bodies(await source.receive(10, 0))


async def test_opening_waits_for_a_lock(start: Start, path: Path) -> None:
    """A source that is opened while another process has all of a new file locked waits for it, up to busy_timeout."""
    locker = await start("lock", "EXCLUSIVE")
    assert "locked" == await locker.line()
    source = make_source(path, busy_timeout=30)
    opening = asyncio.create_task(source.open())
    await asyncio.wait([opening], timeout=0.5)
    was_waiting = not opening.done()

    await locker.finish()
    await asyncio.wait_for(opening, PATIENCE)
    await source.close()

    assert was_waiting


async def test_a_locked_file_holds_up_neither_opening_nor_closing_for_long(
    open_source: SourceFactory, start: Start, path: Path
) -> None:
    """`open` gives up after busy_timeout; `close` doesn't wait for the lock at all, and what waits for it fails."""
    source = await open_source(busy_timeout=600)
    locker = await start("lock")
    assert "locked" == await locker.line()
    late = make_source(path, busy_timeout=0.2)
    with pytest.raises(SourceUnavailable, match="stayed locked"):
        await late.open()
    sending = asyncio.create_task(source.send(outgoing("a")))
    await asyncio.wait([sending], timeout=0.2)

    await asyncio.wait_for(source.close(), 3)

    with pytest.raises(SourceUnavailable):
        await sending


async def test_the_size_limit_refuses_sends_only(open_source: SourceFactory) -> None:
    """Over max_size a send is SourceFull; claiming and settling go on, and make room again."""
    source = await open_source(max_size="256KiB")
    with pytest.raises(SourceFull, match="max_size is 262144"):
        await send_for_ever(source)
    accepted = (await source.stats()).ready

    for delivery in await claim(source, accepted, within=0):
        await source.settle([delivery.ack()])
    await source.send(outgoing("again"))

    assert 50 < accepted < 200
    assert ["again"] == bodies(await source.receive(10, 0))


async def test_a_full_file_is_full_for_sends_and_unavailable_for_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When SQLite finds no room a send is SourceFull, and anything else that needs room is SourceUnavailable."""
    monkeypatch.setattr(connection, "_SETTINGS", (*connection._SETTINGS, "PRAGMA max_page_count = 60"))
    source = make_source(path)
    await source.open()
    with pytest.raises(SourceFull, match="the disk is full"):
        await send_for_ever(source)
    deliveries = await source.receive(1000, 0)

    with pytest.raises(SourceUnavailable, match="the disk is full"):
        await source.settle([delivery.retry(60, "e" * 4000) for delivery in deliveries])
    outcomes = await source.settle([delivery.ack() for delivery in deliveries])
    await source.close()

    assert len(deliveries) > 10
    assert ["done"] * len(deliveries) == outcomes


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("unshare") is None, reason="mounts a small disk: Linux")
@pytest.mark.parametrize(
    ("reserve", "complaint"),
    [(16 * 2**20, "bytes left, and reserve is 16777216"), (0, "the disk is full (SQLite: database or disk is full)")],
)
async def test_a_full_disk_refuses_sends(tmp_path: Path, reserve: int, complaint: str) -> None:
    """On a disk without room a send is SourceFull; with the reserve, workers empty the queue and make room again."""
    command = 'mount -t tmpfs -o size=24m none "$1" && exec "$2" "$3" fill "$1/q.db" "$4"'
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--map-root-user", "--mount", "sh", "-c", command, "sh"),
        *(os.fspath(tmp_path), sys.executable, os.fspath(ROLES), str(reserve)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    if errors.startswith((b"unshare:", b"mount:")):
        pytest.skip(f"this user may not mount a disk: {errors.decode().strip()}")

    full, *drained = output.decode().splitlines()

    assert complaint in full
    if reserve:
        counts, again = drained
        sent, received = counts.split()
        assert int(sent) == int(received) > 1000
        assert "100" == again


@pytest.mark.parametrize(
    ("prepare", "complaint"),
    [
        (lambda path: make_file(path, b"not a database, " * 100), "it is not an SQLite database: give another path"),
        (lambda path: path.mkdir(), "it is a folder; give the path of a file in it"),
        (lambda path: shutil.rmtree(path.parent), "no folder .* can be entered; make it, or correct the path"),
        (
            lambda path: run_sql(
                path, f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA_VERSION + 1}"
            ),
            f"its tables have version {SCHEMA_VERSION + 1}, .* knows versions up to {SCHEMA_VERSION}; update qbridge",
        ),
        (lambda path: run_sql(path, "CREATE TABLE shop (id)"), "it is the database of another program"),
        (lambda path: run_sql(path, "PRAGMA user_version = 7"), "it .* another program .*user_version 7.* of its own"),
    ],
    ids=["not a database", "a folder", "no folder", "newer", "foreign tables", "foreign version"],
)
async def test_a_file_that_is_not_for_us_is_refused(
    path: Path, prepare: Callable[[Path], None], complaint: str
) -> None:
    """What a person must mend is SourceMisconfigured, which names the file and what to do."""
    prepare(path)
    source = make_source(path)

    with pytest.raises(SourceMisconfigured, match=rf"can't use '{path}': {complaint}"):
        await source.open()
    await source.close()

    path.parent.mkdir(exist_ok=True)  # for the fixture that removes it


async def test_a_foreign_database_is_left_as_it_was(path: Path) -> None:
    """Refusing another program's database changes not a byte of it."""
    run_sql(path, "CREATE TABLE shop (id)")
    before = content(path)

    with pytest.raises(SourceMisconfigured):
        await make_source(path).open()

    assert before == content(path)
    assert ["q.db"] == entries(path.parent)


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "complaint"),
    [
        (0o666, 0o555, "its folder can't be written; check the folder's owner and mode"),
        (0o444, 0o777, "it can't be read and written; check its owner and mode"),
        (None, 0o555, "its folder can't be written; check the folder's owner and mode"),
        (None, 0o000, "no folder .* can be entered|its folder can't be written"),
    ],
    ids=["folder", "file", "folder of a file that is missing", "closed folder"],
)
async def test_missing_rights_are_told(
    path: Path, start: Start, file_mode: int | None, folder_mode: int, complaint: str
) -> None:
    """A user who may not write the file or its folder is told so, with what to check."""
    if file_mode is not None:
        source = make_source(path)
        await source.open()
        await source.close()
        os.chmod(path, file_mode)  # noqa: PTH101
    os.chmod(path.parent, folder_mode)  # noqa: PTH101

    told = await (await start("try_to_open")).line()
    os.chmod(path.parent, 0o700)  # noqa: PTH101

    assert re.fullmatch(f"SourceMisconfigured: can't use '{path}': ({complaint}).*", told)


async def test_a_damaged_file_is_told(path: Path) -> None:
    """A database whose pages are garbage is SourceMisconfigured and says how to go on."""
    source = make_source(path)
    await source.open()
    await source.send(outgoing(*(f"{number}" + "x" * 500 for number in range(50))))
    await source.close()
    whole = content(path)
    make_file(path, whole[:8192] + b"\xee" * (len(whole) - 8192))

    with pytest.raises(SourceMisconfigured, match="it is damaged: stop all programs that use it"):
        await open_and_receive(source)
    await source.close()


async def test_a_deleted_file_is_unavailable_and_made_anew(open_source: SourceFactory, path: Path) -> None:
    """Nothing is written into a file that was deleted under an open source: it says so, and opening makes another."""
    source = await open_source()
    os.unlink(path)  # noqa: PTH108

    with pytest.raises(SourceUnavailable, match="was deleted or replaced"):
        await source.send(outgoing("a"))
    await source.close()
    await source.open()
    await source.send(outgoing("b"))

    assert ["b"] == bodies(await source.receive(10, 0))


async def test_a_closed_source_says_so(path: Path) -> None:
    """Before `open` and after `close` every call is SourceClosed."""
    source = make_source(path)
    with pytest.raises(SourceClosed, match="'q' is not open"):
        await source.send(outgoing("a"))
    await source.open()
    await source.close()

    with pytest.raises(SourceClosed, match="'q' is not open"):
        await source.receive(1, 0)
