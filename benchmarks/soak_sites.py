"""A site of the soak: one broker with its queue, its producer and two workers, and the faults that hit them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from soak_tasks import END

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

__all__ = ["RabbitSite", "RedisSite", "Site"]

ROOT = Path(__file__).parents[1]

#: Seconds that a process may take to end when it is asked to.
PATIENCE = 60.0

#: Kilobytes of a process's log that are kept.
MOST_LOG = 20_000

#: Retries cost nothing here: what is counted is what gets lost.
WORKER = {
    "handlers": ["soak_tasks"],
    "loops": {"default": {"concurrency": 100}},
    "retry": {"max_attempts": 1000, "base": 0.2, "cap": 2},
    "max_crashes": 100,
    "shutdown": {"grace": "5s"},
    "logging": {"level": "warning"},
}


class Site(ABC):
    """One broker, and the processes around it. As a context manager it starts all of them and ends what is left.

    The veteran is a worker that is never killed nor stopped, so that its memory tells a story; the recruit is.

    Args:
        folder: Where its processes run.
        rate: Tasks a second.
    """

    name: str

    def __init__(self, folder: Path, rate: float) -> None:
        self.folder = folder
        self._rate = rate
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        #: Held while something is broken: whoever counts waits until it is whole.
        self.whole = threading.Lock()
        #: What was done, and when.
        self.faults: list[tuple[float, str]] = []
        #: Processes that ended otherwise than they should.
        self.surprises: list[str] = []

    @abstractmethod
    def queue(self) -> dict[str, Any]:
        """Return the keys of its queue."""

    @abstractmethod
    def count(self) -> dict[str, float]:
        """Count what the broker holds."""

    @property
    @abstractmethod
    def server(self) -> RedisServer | RabbitServer:
        """The broker."""

    @abstractmethod
    def cut(self) -> None:
        """Let the broker close every connection."""

    def __enter__(self) -> Site:
        self.folder.mkdir()
        self.server.start()
        (self.folder / "qbridge.yaml").write_text(json.dumps({**WORKER, "queues": {"default": self.queue()}}))
        for name in ("veteran", "recruit"):
            self.start_worker(name)
        program = str(ROOT / "benchmarks" / "soak_producer.py")
        self._start("producer", program, json.dumps(self.queue()), str(self._rate))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(PATIENCE)
        self.server.remove()

    def start_worker(self, name: str) -> None:
        """Start a worker in the place of the one of that name."""
        self._start(name, "-m", "qbridge", "run", "-c", "qbridge.yaml")

    def end(self, name: str) -> None:
        """Ask a process to end, and wait until it has."""
        process = self.processes[name]
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.surprises.append(f"{name} did not end within {PATIENCE:.0f} s of its SIGTERM")
            process.kill()
            process.wait(PATIENCE)
        else:
            if code:
                self.surprises.append(f"{name} ended with exit code {code}: see {self.folder / name}.log")

    def ended(self) -> int:
        """Return how many ends the handlers have noted."""
        ends = self.folder / "ends"
        return ends.stat().st_size // END.size if ends.exists() else 0

    def sent(self) -> int:
        """Return how many tasks the producer has tried to send."""
        return _last_number(self.folder / "attempted") + 1

    def sample(self) -> dict[str, float]:
        """Read the series: of the veteran's process, of the broker, and how far the workers are behind."""
        process = psutil.Process(self.processes["veteran"].pid)
        with process.oneshot():
            read = {
                "rss": round(process.memory_info().rss / 2**20, 1),
                "fds": process.num_fds(),
                "threads": process.num_threads(),
            }
        return {**read, **self.count(), "sent": self.sent(), "ended": self.ended()}

    def run_faults(self, stopping: threading.Event, pause: tuple[float, float]) -> None:
        """Inject all faults, again and again, in an order that is shuffled each time, until it is over."""
        faults: list[Callable[[], None]] = []
        while not stopping.wait(random.uniform(*pause)):
            if not faults:
                faults = [
                    self._kill,
                    self._restart_broker,
                    self.cut,
                    self._freeze_worker,
                    self._freeze_broker,
                    self._stop,
                ]
                random.shuffle(faults)
            fault = faults.pop()
            with self.whole:
                self.faults.append((time.time(), fault.__name__.strip("_")))
                try:
                    fault()
                except Exception as exc:  # noqa: BLE001  # the soak goes on, and tells
                    self.surprises.append(f"{fault.__name__.strip('_')} failed: {exc!r}")

    def look_after(self) -> None:
        """Note processes that have ended though nobody asked them to, and start them anew."""
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                self.surprises.append(f"{name} ended by itself with exit code {process.returncode}")
                if name != "producer":
                    self.start_worker(name)

    def _kill(self) -> None:
        recruit = self.processes["recruit"]
        recruit.kill()
        recruit.wait(PATIENCE)
        time.sleep(1)
        self.start_worker("recruit")

    def _stop(self) -> None:
        self.end("recruit")
        self.start_worker("recruit")

    def _freeze_worker(self) -> None:
        recruit = self.processes["recruit"]
        recruit.send_signal(signal.SIGSTOP)
        time.sleep(random.uniform(2, 8))
        recruit.send_signal(signal.SIGCONT)

    def _restart_broker(self) -> None:
        self.server.stop()
        time.sleep(random.uniform(0, 3))
        self.server.start()

    def _freeze_broker(self) -> None:
        self.server.freeze()
        time.sleep(random.uniform(1, 6))
        self.server.thaw()

    def _start(self, name: str, *arguments: str) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]))
        log = self.folder / f"{name}.log"
        size = log.stat().st_size if log.exists() else 0
        with log.open("wb" if size > MOST_LOG * 1024 else "ab") as file:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )


class RedisSite(Site):
    """A Redis that keeps all that it has accepted."""

    name = "redis"

    def __init__(self, folder: Path, rate: float) -> None:
        super().__init__(folder, rate)
        self._server = RedisServer()

    @property
    def server(self) -> RedisServer:
        """The broker."""
        return self._server

    def queue(self) -> dict[str, Any]:
        """Return the keys of its queue."""
        return {"backend": "redis", "url": self._server.url, "key": "soak", "lease": "5s"}

    def count(self) -> dict[str, float]:
        """Count keys, and megabytes in use."""
        memory = int(self._server.info("memory")["used_memory"]) / 2**20
        clients = int(self._server.info("clients")["connected_clients"])
        return {"keys": int(self._server.cli("DBSIZE")), "memory": round(memory, 2), "connections": clients}

    def cut(self) -> None:
        """Let the broker close every connection."""
        self._server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


class RabbitSite(Site):
    """A RabbitMQ with a queue that it keeps on its disk."""

    name = "rabbitmq"

    def __init__(self, folder: Path, rate: float) -> None:
        super().__init__(folder, rate)
        self._server = RabbitServer()

    @property
    def server(self) -> RabbitServer:
        """The broker."""
        return self._server

    def queue(self) -> dict[str, Any]:
        """Return the keys of its queue."""
        return {"backend": "rabbitmq", "url": self._server.url, "queue": "soak", "heartbeat": "5s"}

    def count(self) -> dict[str, float]:
        """Count queues, connections and channels."""
        read = {"queues": ("list_queues", "name"), "connections": ("list_connections", "pid")}
        counts = {kind: self._rows(*command) for kind, command in read.items()}
        return {**counts, "channels": self._rows("list_channels", "pid")}

    def cut(self) -> None:
        """Let the broker close every connection."""
        self._server.ctl("close_all_connections", "the soak cuts them")

    def _rows(self, *command: str) -> int:
        return len(self._server.ctl(*command, "--no-table-headers").splitlines())


def _last_number(path: Path) -> int:
    if not path.exists() or not path.stat().st_size:
        return -1
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        lines = file.read().splitlines()
    return int(lines[-1]) if lines and lines[-1] else -1
