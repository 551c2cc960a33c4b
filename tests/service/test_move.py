"""`qbridge move` between real brokers: all arrives, and a kill in its middle loses nothing."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from qbridge import Outgoing, QBridge, QueueStats, load_config
from qbridge.cli.moving import BATCH
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

PATIENCE = 40.0

YAML = """
handlers: [tasks]
queues:
  file: {{backend: sqlite, path: ./q.db, lease: 2s}}
  other: {{backend: sqlite, path: ./q.db, lease: 2s, codec: {{type: raw, task: count}}}}
  small: {{backend: sqlite, path: ./q.db, max_message_size: 10}}
  server: {{backend: redis, url: "{url}", key: q, lease: 2s}}
  away: {{backend: redis, url: "redis://127.0.0.1:1/0", key: q}}
  memory: {{backend: memory}}
"""


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A real server."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def folder(redis_server: RedisServer, tmp_path: Path) -> Path:
    """A folder with a YAML file; its queues are empty."""
    redis_server.cli("FLUSHALL")
    (tmp_path / "qbridge.yaml").write_text(YAML.format(url=redis_server.url))
    return tmp_path


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Return a `qbridge move` that runs."""
    command = [sys.executable, "-m", "qbridge", "move", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a `qbridge move`; return its exit code and what it wrote."""
    with started(folder, *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


async def _send(folder: Path, queue: str, bodies: Sequence[bytes]) -> None:
    bridge = QBridge.from_config(None, load_config(folder / "qbridge.yaml"))
    async with bridge, bridge.source(queue) as source:
        for start in range(0, len(bodies), 1000):
            batch = bodies[start : start + 1000]
            await source.send([Outgoing(body=body, message_id=f"m{start + n}") for n, body in enumerate(batch)])


async def _stats(folder: Path, queue: str) -> QueueStats:
    bridge = QBridge.from_config(None, load_config(folder / "qbridge.yaml"))
    async with bridge, bridge.source(queue) as source:
        return await source.stats()


async def _bodies(folder: Path, queue: str) -> list[bytes]:
    """Take all that is ready in a queue."""
    bridge = QBridge.from_config(None, load_config(folder / "qbridge.yaml"))
    bodies: list[bytes] = []
    async with bridge, bridge.source(queue) as source:
        while deliveries := await source.receive(500, 0):
            bodies += [delivery.body for delivery in deliveries]
            await source.settle([delivery.ack() for delivery in deliveries])
    return bodies


def send(folder: Path, queue: str, bodies: Sequence[bytes]) -> None:
    """Put bodies into a queue."""
    asyncio.run(_send(folder, queue, bodies))


def stats(folder: Path, queue: str) -> QueueStats:
    """Count what is in a queue."""
    return asyncio.run(_stats(folder, queue))


def bodies_in(folder: Path, queue: str) -> list[bytes]:
    """Take all that is ready in a queue."""
    return asyncio.run(_bodies(folder, queue))


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of the YAML start at the working directory."""
    monkeypatch.chdir(folder)


@pytest.fixture
def rabbit(request: pytest.FixtureRequest, folder: Path) -> None:
    """A test marked with rabbitmq has a queue `rabbit` too."""
    if request.node.get_closest_marker("rabbitmq"):
        server: RabbitServer = request.getfixturevalue("rabbitmq_server")
        with (folder / "qbridge.yaml").open("a") as file:
            file.write(f'  rabbit: {{backend: rabbitmq, url: "{server.url}", queue: "move-{uuid.uuid4().hex}"}}\n')


WAYS = [
    ("file", "server"),
    ("server", "file"),
    pytest.param("file", "rabbit", marks=pytest.mark.rabbitmq),
    pytest.param("rabbit", "file", marks=pytest.mark.rabbitmq),
]


@pytest.mark.usefixtures("rabbit")
@pytest.mark.parametrize(("origin", "target"), WAYS)
def test_all_that_is_ready_is_moved(origin: str, target: str, folder: Path) -> None:
    """Messages of any bytes go from one broker to another in their order, and the command says how many."""
    bodies = [b"\x00\xff not a task", *(b"%d" % number for number in range(230))]
    send(folder, origin, bodies)

    code, out, err = ended(folder, "--from", origin, "--to", target)

    assert (0, f"231 messages moved from {origin!r} to {target!r}\n", "") == (code, out, err)
    assert bodies == bodies_in(folder, target)
    assert (0, 0) == (stats(folder, origin).ready, stats(folder, origin).in_flight)


def test_a_limit_is_kept(folder: Path) -> None:
    """`--limit` moves the first ones, and leaves the rest as they were."""
    send(folder, "file", [b"1", b"2", b"3"])

    code, out, _ = ended(folder, "--from", "file", "--to", "server", "--limit", "2")

    assert (0, "2 messages moved from 'file' to 'server'\n") == (code, out)
    assert ([b"1", b"2"], [b"3"]) == (bodies_in(folder, "server"), bodies_in(folder, "file"))


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.usefixtures("rabbit")
@pytest.mark.parametrize(("origin", "target"), WAYS)
def test_a_kill_in_the_middle_loses_nothing(origin: str, target: str, folder: Path) -> None:
    """After a kill -9 the next move finishes: every message arrives, and at most one batch of them twice."""
    bodies = [b"%d" % number for number in range(20_000)]
    send(folder, origin, bodies)
    with started(folder, "--from", origin, "--to", target) as process:
        while stats(folder, target).ready < 500:
            assert process.poll() is None, process.communicate()
        process.kill()
    moved_at_the_kill = stats(folder, target).ready

    deadline = time.monotonic() + PATIENCE
    arrived: Counter[bytes] = Counter()
    # What the killed one had claimed comes back when its lease is over, in 2 s, or its connection's end is noticed.
    while set(bodies) != set(arrived):
        assert time.monotonic() < deadline, f"lost: {set(bodies) - set(arrived)}"
        assert 0 == ended(folder, "--from", origin, "--to", target)[0]
        arrived.update(bodies_in(folder, target))

    left = stats(folder, origin)
    doubled = sum(arrived.values()) - len(bodies) + left.ready + left.in_flight

    assert 500 <= moved_at_the_kill < len(bodies), "it was not killed in its middle"
    assert doubled <= BATCH


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_after_the_batch(number: signal.Signals, code: int, folder: Path) -> None:
    """Ctrl-C or SIGTERM leaves each message in one queue, none in flight, and none counted as tried."""
    bodies = [b"%d" % number for number in range(20_000)]
    send(folder, "file", bodies)
    with started(folder, "--from", "file", "--to", "server") as process:
        while stats(folder, "server").ready < 300:
            assert process.poll() is None, process.communicate()
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)

    arrived = stats(folder, "server").ready
    left = stats(folder, "file")
    assert (code, f"{arrived} messages moved from 'file' to 'server'\n", "") == (process.returncode, out, err)
    assert (len(bodies) - arrived, 0) == (left.ready, left.in_flight)
    assert bodies == bodies_in(folder, "server") + bodies_in(folder, "file")


def test_a_full_target_keeps_nothing_claimed(folder: Path, redis_server: RedisServer) -> None:
    """A target without room ends the move with exit code 1; what it didn't take is ready where it was."""
    send(folder, "file", [b"x" * 1000] * 300)
    redis_server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    redis_server.cli("CONFIG", "SET", "maxmemory", "1")
    try:
        code, out, err = ended(folder, "--from", "file", "--to", "server")
    finally:
        redis_server.cli("CONFIG", "SET", "maxmemory", "0")

    assert (1, "0 messages moved from 'file' to 'server'\n") == (code, out)
    assert err.startswith("error: ")
    assert (300, 0) == (stats(folder, "file").ready, stats(folder, "file").in_flight)


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["--from", "file", "--to", "away"], 3, "127.0.0.1:1"),
        (["--from", "file", "--to", "file"], 2, "'file' is where the messages are"),
        (["--from", "file", "--to", "memory"], 2, "queue 'memory': backend memory keeps its messages"),
        (["--from", "flie", "--to", "server"], 2, "no queue is named 'flie'"),
        (["--from", "file", "--to", "server", "--limit", "0"], 2, "--limit"),
        (["--from", "file"], 2, "--to"),
        (["--from", "file", "--to", "small"], 2, "message has 11 bytes, over the limit of 10"),
    ],
)
def test_what_can_t_be_moved_stays(arguments: list[str], code: int, error: str, folder: Path) -> None:
    """A wrong command line, a broker that is away, a queue that can't take the message: each has its exit code."""
    send(folder, "file", [b"eleven char"])

    ended_with, _, err = ended(folder, *arguments)

    assert code == ended_with, err
    assert error in err
    assert (1, 0) == (stats(folder, "file").ready, stats(folder, "file").in_flight)


def test_different_codecs_are_told(folder: Path) -> None:
    """Messages are moved as they are, so a queue that reads them in another way is worth a warning."""
    send(folder, "other", [b"5"])

    code, _, err = ended(folder, "--from", "other", "--to", "server")

    assert (0, "warning: queues 'other' and 'server' have different codecs, and messages are moved as they are\n") == (
        code,
        err,
    )


def test_a_terminal_sees_a_bar(folder: Path) -> None:
    """On a terminal's standard error a bar shows how many of how many were moved."""
    send(folder, "file", [b"%d" % number for number in range(150)])
    terminal, inside = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "qbridge", "move", "--from", "file", "--to", "server"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=inside,
            timeout=PATIENCE,
            check=False,
        )
        shown = os.read(terminal, 100_000).decode()
    finally:
        os.close(inside)
        os.close(terminal)

    assert 0 == done.returncode
    assert re.search(r"150/150", shown)
