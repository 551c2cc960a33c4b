"""The four programs that qbridge grew from, as they stand in docs/examples/origins, with what they must show."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess

ORIGINS = Path(__file__).parents[2] / "docs" / "examples" / "origins"


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A real server of the test's own."""
    with RedisServer() as server:
        yield server


def run_example(name: str) -> list[str]:
    """Run one of the programs; return the lines that it prints."""
    done = subprocess.run([sys.executable, ORIGINS / name], capture_output=True, text=True, timeout=40, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout.splitlines()


def test_the_main_thread_goes_on_while_a_handler_blocks_its_loop() -> None:
    """A handler that sleeps for 1 s without awaiting leaves the main thread free to tick every 50 ms."""
    lines = run_example("handover.py")

    assert ["work on default-0: blocking for 1.0 s", "work: done"] == lines[:2]
    ticks = re.fullmatch(r"MainThread: went on, (\d+) ticks meanwhile", lines[2])
    assert ticks is not None
    assert int(ticks[1]) > 5


def test_coroutines_of_6_and_4_seconds_take_6_seconds() -> None:
    """Handlers wait side by side: the shorter one ends first and both take as long as the longer one."""
    lines = run_example("side_by_side.py")

    assert ["Waiting 6", "Waiting 4", "Done 4", "Done 6"] == lines[:4]
    took = re.fullmatch(r"both took ([\d.]+) s", lines[4])
    assert took is not None
    assert 6.0 <= float(took[1]) < 9.0


@pytest.mark.redis
def test_a_worker_takes_what_anybody_pushes_and_nothing_waits_for_another(redis_server: RedisServer) -> None:
    """`lpush queue 2 / 5 / 1 / 1` starts all four in that order at once, and they end as their times say."""
    with WorkerProcess(ORIGINS, environment={"REDIS_URL": redis_server.url}) as worker:
        worker.wait_until_ready()
        began = time.monotonic()

        for number in (2, 5, 1, 1):
            redis_server.cli("lpush", "queue", number)
        worker.wait_for(lambda lines: len(lines) == 8)
        took = time.monotonic() - began
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert ["Waiting 2", "Waiting 5", "Waiting 1", "Waiting 1"] == worker.lines[:4]
    assert ["Done 1", "Done 1", "Done 2", "Done 5"] == worker.lines[4:]
    assert took < 8.0, "they waited for one another"
    assert 0 == code
    assert "" == redis_server.cli("keys", "queue"), "a task is left"


@pytest.mark.redis
@pytest.mark.parametrize("grace", ["20s", "0.5s"], ids=["within the grace", "over the grace"])
def test_ctrl_c_loses_nothing(redis_server: RedisServer, grace: str) -> None:
    """After Ctrl-C each task is done or back in the queue, and a second worker finishes what is left."""
    environment = {"REDIS_URL": redis_server.url, "QBRIDGE_SHUTDOWN__GRACE": grace}
    with WorkerProcess(ORIGINS, environment=environment) as first:
        first.wait_until_ready()
        redis_server.cli("lpush", "queue", 5, 4)
        first.wait_for(lambda lines: len(lines) == 2)

        first.signal(signal.SIGINT)
        code = first.wait()

    done = [line for line in first.lines if line.startswith("Done")]
    if grace == "20s":
        assert (0, ["Done 4", "Done 5"]) == (code, done)
    else:
        assert (5, []) == (code, done)
    with WorkerProcess(ORIGINS, "--burst", environment=environment) as second:
        assert 0 == second.wait()
    done += [line for line in second.lines if line.startswith("Done")]
    assert ["Done 4", "Done 5"] == sorted(done)
