"""What another process does in the tests of the sqlite backend: `python sqlite_roles.py ROLE PATH [MORE…]`."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import qbridge_sqlite.database  # noqa: F401  # before a role gives up its rights, and the right to read modules
from qbridge import Outgoing, SourceError, SourceFull
from qbridge_sqlite import SqliteSource, backend
from qbridge_sqlite.wakeup import wake_folder


def tell(text: object) -> None:
    """Print a line that the test reads at once."""
    print(text, flush=True)


def make_source(path: str, name: str = "q", **options: object) -> SqliteSource:
    """Return an unopened source."""
    source = backend.create(name, backend.options.model_validate({"path": path, "lease": 60, **options}))
    assert isinstance(source, SqliteSource)
    return source


async def produce(path: str, prefix: str, count: str, batch: str) -> None:
    """Send `count` messages called prefix-0…, in batches; print the name of each once its send has returned."""
    source = make_source(path)
    await source.open()
    names = [f"{prefix}-{number}" for number in range(int(count))]
    for start in range(0, len(names), int(batch)):
        some = names[start : start + int(batch)]
        await source.send([Outgoing(body=name.encode(), message_id=name) for name in some])
        tell("\n".join(some))
    await source.close()


async def flood(path: str) -> None:
    """Send batches of 7 until killed; print each name once its send has returned."""
    await produce(path, "flood", "7000000", "7")


async def work(path: str) -> None:
    """Receive and acknowledge until SIGTERM; print each body that was received."""
    source = make_source(path)
    await source.open()
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        source.wake()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    tell("ready")
    while not stopped.is_set():
        deliveries = await source.receive(20, 30)
        for delivery in deliveries:
            tell(delivery.body.decode())
        await source.settle([delivery.ack() for delivery in deliveries])
    await source.close()


async def hold(path: str, count: str, lease: str) -> None:
    """Claim `count` messages and keep them until killed."""
    source = make_source(path, lease=lease)
    await source.open()
    claimed = 0
    while claimed < int(count):
        claimed += len(await source.receive(int(count) - claimed, 30))
    tell("claimed")
    await asyncio.Event().wait()


async def listen(path: str) -> None:
    """Wait for messages of an empty queue until killed."""
    source = make_source(path)
    await source.open()
    receiving = asyncio.create_task(source.receive(1, 30))
    folder = wake_folder(Path(path))
    while not any(folder.glob("*")):  # noqa: ASYNC110  # the thread that binds the socket tells nobody
        await asyncio.sleep(0.01)
    tell("listens")
    await receiving


async def lock(path: str, kind: str = "IMMEDIATE") -> None:
    """Hold the write lock, or one that also keeps readers out (EXCLUSIVE, of a file without a log), until SIGTERM."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"BEGIN {kind}")
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    tell("locked")
    await stopped.wait()
    connection.execute("ROLLBACK")
    connection.close()


async def fill(path: str, reserve: str) -> None:
    """Send until the disk is full, empty the queue, and send once more; print what happened."""
    source = make_source(path, reserve=int(reserve))
    await source.open()
    sent = 0
    try:
        while True:
            await source.send([Outgoing(body=b"x" * 3000, message_id=str(sent + number)) for number in range(20)])
            sent += 20
    except SourceFull as exc:
        tell(f"full: {exc}")
    received = 0
    while deliveries := await source.receive(100, 0):
        await source.settle([delivery.ack() for delivery in deliveries])
        received += len(deliveries)
    tell(f"{sent} {received}")
    await source.send([Outgoing(body=b"x" * 10, message_id="again") for _ in range(100)])
    tell(len(await source.receive(100, 0)))
    await source.close()


async def try_to_open(path: str) -> None:
    """Open the file as a user without rights; print what came of it."""
    if os.geteuid() == 0:
        os.setuid(65534)
    source = make_source(path)
    try:
        await source.open()
    except SourceError as exc:
        tell(f"{type(exc).__name__}: {exc}")
    else:
        tell("opened")
    await source.close()


async def forget(path: str) -> None:
    """Leave a source open that has sent and waited, and end."""
    source = make_source(path)
    await source.open()
    await source.receive(1, 0.01)
    await source.send([Outgoing(body=b"kept", message_id="kept")])
    globals()["kept"] = source


async def send_time(path: str) -> None:
    """For each line that is said, send the time as a message."""
    source = make_source(path)
    await source.open()
    tell("ready")
    while await asyncio.to_thread(sys.stdin.readline):
        now = str(time.time())
        await source.send([Outgoing(body=now.encode(), message_id=now)])
    await source.close()


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
