"""How soon the work of a worker that died is done by another: from its `kill -9`, or its SIGTERM, to the last start.

    python benchmarks/recovery.py                            # every backend, leases of 5 s and 30 s, five times each
    python benchmarks/recovery.py redis --repeat 2

Worker A runs twenty tasks that don't end by themselves; worker B is up and idle. Then A is ended, and the time is
measured until B has started each of the twenty. After a SIGTERM without grace A puts them back itself. The exit code
is 1 if a message took longer than its lease and a little, or than a moment after a SIGTERM or where the connection is
the lease.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from qbridge import QBridge, TaskMessage

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

ROOT = Path(__file__).parents[1]

#: Messages that the worker holds.
HELD = 20

#: Seconds beyond a lease: until the other worker looks, and all of it on a busy machine.
MARGIN = 2.0

#: Seconds for anything else that is waited for.
PATIENCE = 60.0

BACKENDS = ("sqlite", "redis", "rabbitmq")

LEASES = (5.0, 30.0)


class Bench:
    """One queue, and the workers on it.

    Args:
        folder: Where they run.
        queue: The queue's keys.
    """

    def __init__(self, folder: Path, queue: dict[str, Any]) -> None:
        self._folder = folder
        self._queue = queue
        self._offset = 0
        #: Who has started which message, and when, since the last look at it.
        self._starts: list[tuple[int, int, float]] = []
        wishes = {
            "handlers": ["recovery_tasks"],
            "queues": {"default": queue},
            "max_crashes": 100,
            "shutdown": {"grace": "0s"},
        }
        (folder / "qbridge.yaml").write_text(json.dumps(wishes))

    def measure(self, how: signal.Signals, until: str) -> float:
        """Return the seconds from the end of one worker to the start of the last of its messages in another."""
        with self._worker() as first:
            asyncio.run(self._send(until))
            self._wait(first.pid)
            with self._worker() as second:
                time.sleep(random.uniform(0, 2))  # at any moment between two renewals
                ended_at = time.time()
                first.send_signal(how)
                last = self._wait(second.pid)
                (self._folder / until).touch()
                asyncio.run(self._until_empty())
        return last - ended_at

    @contextmanager
    def _worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start a worker; give it when its source is ready."""
        path = os.pathsep.join(filter(None, [str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]))
        log = self._folder / f"worker-{time.monotonic_ns()}.log"
        with log.open("wb") as file:
            worker = subprocess.Popen(
                [sys.executable, "-m", "qbridge", "run", "-c", "qbridge.yaml"],
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        try:
            deadline = time.monotonic() + PATIENCE
            while b"source ready" not in log.read_bytes():
                if worker.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the worker did not start: {log.read_text()}")
                time.sleep(0.02)
            yield worker
        finally:
            worker.kill()
            worker.wait(PATIENCE)

    def _wait(self, process: int) -> float:
        """Wait until a process has started all messages; return when it started the last one."""
        deadline = time.monotonic() + PATIENCE + max(LEASES)
        path = self._folder / "starts"
        while time.monotonic() < deadline:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            rows = [line.split() for line in lines if line.endswith(b"\n")]
            started = {int(number): float(at) for number, worker, at in rows if int(worker) == process}
            if len(started) == HELD:
                return max(started.values())
            time.sleep(0.01)
        raise RuntimeError(f"process {process} has started only {len(started)} of {HELD} messages")

    async def _send(self, until: str) -> None:
        async with QBridge(queues={"default": self._queue}) as bridge:
            await bridge.send_many(TaskMessage(task="hold", args=[number, until]) for number in range(HELD))

    async def _until_empty(self) -> None:
        async with QBridge(queues={"default": self._queue}) as bridge, bridge.source() as source:
            async with asyncio.timeout(PATIENCE):
                while (stats := await source.stats()).ready + stats.delayed + stats.in_flight:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


@contextmanager
def queue_keys(backend: str, folder: Path, lease: float) -> Iterator[dict[str, Any]]:
    """Give the keys of a fresh queue on a broker of its own."""
    if backend == "sqlite":
        yield {"backend": backend, "path": str(folder / "q.db"), "lease": f"{lease:g}s"}
    elif backend == "redis":
        with RedisServer() as redis:
            yield {"backend": backend, "url": redis.url, "key": "recovery", "lease": f"{lease:g}s"}
    else:
        with RabbitServer() as rabbit:
            yield {"backend": backend, "url": rabbit.url, "queue": "recovery"}


def measure(backend: str, lease: float, repeat: int, rows: dict[tuple[str, float], list[list[float]]]) -> None:
    """Measure one backend with one lease; add the seconds after kills and after SIGTERMs to the rows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"qbridge-recovery-{backend}-")))
        bench = Bench(folder, stack.enter_context(queue_keys(backend, folder, lease)))
        rows[backend, lease] = [
            [bench.measure(how, f"{how.name}-{index}") for index in range(repeat)]
            for how in (signal.SIGKILL, signal.SIGTERM)
        ]


def main() -> int:
    """Measure what is asked for, print the table, and tell whether all was in time."""
    parser = argparse.ArgumentParser(description="How soon another worker does the work of one that has died.")
    parser.add_argument("backend", nargs="?", choices=BACKENDS)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--lease", type=float, choices=LEASES, help="only this lease, in seconds")
    arguments = parser.parse_args()
    leases = [arguments.lease] if arguments.lease else LEASES
    wanted = [
        (backend, lease)
        for backend in ([arguments.backend] if arguments.backend else BACKENDS)
        # RabbitMQ has no leases: a connection's end gives its messages back.
        for lease in ([0.0] if backend == "rabbitmq" else leases)
    ]
    rows: dict[tuple[str, float], list[list[float]]] = {}
    # Nearly all of it is waiting, so they wait together.
    threads = [threading.Thread(target=measure, args=(*each, arguments.repeat, rows)) for each in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("| backend | lease | times | kill -9, median | kill -9, longest | SIGTERM, median | SIGTERM, longest |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    is_well = True
    for backend, lease in wanted:
        if (backend, lease) not in rows:
            print(f"| {backend} | failed |")
            is_well = False
            continue
        killed, asked = rows[backend, lease]
        print(
            f"| {backend} | {f'{lease:g} s' if lease else 'connection'} | {len(killed)} | {median(killed):.2f} s "
            f"| {max(killed):.2f} s | {median(asked):.2f} s | {max(asked):.2f} s |"
        )
        is_well &= max(killed) <= lease + MARGIN and max(asked) <= MARGIN
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
