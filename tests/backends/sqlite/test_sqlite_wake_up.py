"""A producer in another process wakes a worker that waits; nothing polls, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from qbridge import Delivery, QueueSource
from qbridge_sqlite import SqliteOptions, wakeup
from qbridge_sqlite import source as source_module
from qbridge_sqlite.connection_thread import ConnectionThread
from qbridge_sqlite.database import Database
from qbridge_sqlite.requests import Claim, Claimed, Send
from tests.backends.sqlite.conftest import (
    PATIENCE,
    OtherProcess,
    SourceFactory,
    bodies,
    entries,
    make_file,
    make_source,
    outgoing,
    until_somebody_listens,
)

Start = Callable[..., Awaitable[OtherProcess]]


def mode(place: Path) -> str:
    """Return the rights of a file, in octal."""
    return oct(stat.S_IMODE(place.stat().st_mode))


@pytest.fixture
def without_safety_net(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting sources don't look by themselves: only a wake-up ends their wait early."""
    monkeypatch.setattr(source_module, "_LOOK_EVERY", 600.0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When sources looked for messages."""
    looks = []
    claim = source_module._claim

    async def counted(thread: ConnectionThread, request: Claim) -> Claimed:
        looks.append(time.monotonic())
        return await claim(thread, request)

    monkeypatch.setattr(source_module, "_claim", counted)
    return looks


async def soon(receiving: asyncio.Task[Sequence[Delivery]]) -> Sequence[Delivery]:
    """Return what a receive, which may wait for ten minutes, returns before the test loses its patience."""
    return await asyncio.wait_for(receiving, PATIENCE)


@pytest.mark.usefixtures("without_safety_net")
async def test_a_send_in_another_process_wakes_a_waiting_worker(
    open_source: SourceFactory, start: Start, path: Path
) -> None:
    """A message from another process reaches a worker that waits at once, by the wake-up alone."""
    worker = await open_source()
    producer = await start("send_time")
    assert "ready" == await producer.line()
    latencies = []

    for _ in range(5):
        receiving = asyncio.create_task(worker.receive(1, 600))
        await until_somebody_listens(path)
        producer.say("go")
        [delivery] = await soon(receiving)
        latencies.append(time.time() - float(delivery.body))

    assert sorted(latencies)[2] < 0.05, f"seconds from send to delivery: {latencies}"


@pytest.mark.usefixtures("without_safety_net")
@pytest.mark.parametrize("how", ["send", "delayed send", "release", "retry", "redrive"])
async def test_all_that_brings_messages_wakes(open_source: SourceFactory, how: str) -> None:
    """A waiting worker is woken by whatever makes a message ready, or ready soon."""
    other, worker = await open_source(), await open_source()
    await other.send(outgoing("a"))
    [delivery] = await other.receive(1, 0)
    if how == "redrive":
        await other.settle([delivery.dead_letter("rejected")])
    receiving = asyncio.create_task(worker.receive(1, 600))
    await asyncio.wait([receiving], timeout=0.1)

    match how:
        case "send":
            await other.send(outgoing("b"))
        case "delayed send":
            await other.send(outgoing("b", delay=0.1))
        case "release":
            await other.settle([delivery.release()])
        case "retry":
            await other.settle([delivery.retry(0.1)])
        case "redrive":
            await other.redrive()
    received = await soon(receiving)

    assert 1 == len(received)


async def test_an_own_send_wakes_the_own_receive(open_source: SourceFactory, without_safety_net: None) -> None:
    """A source that waits gets what was sent through itself."""
    source = await open_source()
    receiving = asyncio.create_task(source.receive(1, 600))
    await asyncio.wait([receiving], timeout=0.1)

    await source.send(outgoing("a"))

    assert ["a"] == bodies(await soon(receiving))


async def test_a_waiting_worker_looks_once_a_second(open_source: SourceFactory, looks: list[float]) -> None:
    """While nothing happens the file is looked at before and after binding, and then each second, not more often."""
    source = await open_source()

    assert [] == await source.receive(1, 2.5)

    assert len(looks) in {4, 5}, f"looked at {looks}"


@pytest.mark.usefixtures("without_safety_net")
async def test_a_queue_is_not_woken_by_another_one_in_the_file(open_source: SourceFactory, looks: list[float]) -> None:
    """Sending to one queue leaves the workers of another one alone."""
    worker, stranger = await open_source("one"), await open_source("two")
    receiving = asyncio.create_task(worker.receive(1, 1.0))
    await asyncio.wait([receiving], timeout=0.2)
    before = len(looks)

    await stranger.send(outgoing("a"))
    await asyncio.wait([receiving], timeout=0.3)
    after = len(looks)

    assert [] == await receiving
    assert 2 == before == after


@pytest.mark.usefixtures("without_safety_net")
async def test_what_is_sent_just_before_a_worker_listens_is_not_missed(
    open_source: SourceFactory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message sent after a worker found nothing and before its socket was bound wakes nobody, and is found."""
    bind = wakeup.WakeUps._bind

    def send_and_bind(wake_ups: wakeup.WakeUps) -> None:
        other = Database("q", path, SqliteOptions(path=path), threading.Event())
        other.perform([Send(messages=outgoing("a"))])
        other.close()
        bind(wake_ups)

    monkeypatch.setattr(wakeup.WakeUps, "_bind", send_and_bind)
    worker = await open_source()

    received = await soon(asyncio.create_task(worker.receive(1, 600)))

    assert ["a"] == bodies(received)


async def test_closing_leaves_only_the_database(path: Path) -> None:
    """After the last close the folder holds the database alone: no socket, no folder of sockets, no log."""
    worker, producer = make_source(path), make_source(path)
    await worker.open()
    await producer.open()
    receiving = asyncio.create_task(worker.receive(1, 600))
    await until_somebody_listens(path)
    await producer.send(outgoing("a"))
    await soon(receiving)

    await worker.close()
    await producer.close()

    assert ["q.db"] == entries(path.parent)


async def test_the_socket_of_a_killed_worker_is_cleared_away(
    open_source: SourceFactory, start: Start, path: Path
) -> None:
    """A socket file whose process is gone is removed by the next one who sends, with the folder if it was the last."""
    listener = await start("listen")
    assert "listens" == await listener.line()
    await listener.kill()
    left = entries(wakeup.wake_folder(path))
    source = await open_source()

    await source.send(outgoing("a"))

    assert 1 == len(left)
    assert ["q.db", "q.db-shm", "q.db-wal"] == entries(path.parent)


async def test_a_socket_that_is_just_being_bound_is_left_alone(open_source: SourceFactory, path: Path) -> None:
    """The file of a socket on its way is not taken for a dead one, unless it is old."""
    folder = wakeup.wake_folder(path)
    source = await open_source()
    receiving = asyncio.create_task(source.receive(1, 600))
    await until_somebody_listens(path)
    unfinished = folder / ".1-1-00000000"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(os.fspath(unfinished))
    other = await open_source()

    assert [] == await other.receive(1, 0.01)
    fresh = entries(folder)
    os.utime(unfinished, (0, 0))
    await other.close()
    old = entries(folder)
    source.wake()
    await receiving

    assert unfinished.name in fresh
    assert unfinished.name not in old


async def test_a_socket_file_that_vanished_is_made_anew(
    open_source: SourceFactory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose socket somebody deleted is reachable again after its next look."""
    monkeypatch.setattr(source_module, "_LOOK_EVERY", 0.1)
    worker, producer = await open_source(), await open_source()
    receiving = asyncio.create_task(worker.receive(1, 600))
    await until_somebody_listens(path)
    shutil.rmtree(wakeup.wake_folder(path))

    await until_somebody_listens(path)
    await producer.send(outgoing("a"))

    assert ["a"] == bodies(await soon(receiving))


@pytest.mark.usefixtures("without_safety_net")
async def test_a_path_too_long_for_a_socket_has_one_elsewhere(tmp_path: Path) -> None:
    """Where the database's path is longer than a socket's may be, wake-ups work and leave nothing behind too."""
    path = tmp_path / f"{'long' * 40}.db"
    worker, producer = make_source(path), make_source(path)
    await worker.open()
    await producer.open()
    receiving = asyncio.create_task(worker.receive(1, 600))
    await until_somebody_listens(path)

    await producer.send(outgoing("a"))
    received = await soon(receiving)
    await worker.close()
    await producer.close()

    assert ["a"] == bodies(received)
    assert Path(tempfile.gettempdir()) == wakeup.wake_folder(path).parent
    assert [] == entries(wakeup.wake_folder(path))


def test_a_file_is_found_by_any_of_its_paths(path: Path) -> None:
    """Two paths of one file, one through a link, share the folder of the sockets."""
    path.touch()
    link = path.with_name("link.db")
    link.symlink_to(path)

    assert wakeup.wake_folder(path) == wakeup.wake_folder(link)


async def test_without_sockets_a_worker_looks_by_itself(
    open_source: SourceFactory, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While no socket can be bound, one warning is logged and messages arrive, a second later; then it is bound."""

    def refuse(self: wakeup.WakeUps) -> None:
        raise OSError(28, "No space left on device")

    worker: QueueSource = await open_source()
    producer = await open_source()
    with monkeypatch.context() as patch:
        patch.setattr(wakeup.WakeUps, "_bind", refuse)
        for _ in range(2):
            receiving = asyncio.create_task(worker.receive(1, 600))
            await asyncio.wait([receiving], timeout=0.1)
            await producer.send(outgoing("a"))
            assert ["a"] == bodies(await soon(receiving))

    receiving = asyncio.create_task(worker.receive(1, 600))
    await until_somebody_listens(path)
    worker.wake()
    await receiving

    assert ["no wake-ups from other processes, looking once a second"] == [
        record.getMessage() for record in caplog.records
    ]


async def test_sockets_have_the_rights_of_the_database(open_source: SourceFactory, path: Path) -> None:
    """Who may write the database may listen and wake, and nobody else."""
    make_file(path, mode=0o640)
    worker = await open_source()
    receiving = asyncio.create_task(worker.receive(1, 600))
    await until_somebody_listens(path)

    folder = wakeup.wake_folder(path)
    rights = [mode(place) for place in (folder, folder / entries(folder)[0])]
    worker.wake()
    await receiving

    assert [oct(0o750), oct(0o640)] == rights
