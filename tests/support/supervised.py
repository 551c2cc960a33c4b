"""Supervised: a real `qbridge run` with several processes, for tests that watch its workers come and go."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.worker_process import PATIENCE, WorkerProcess

__all__ = ["Supervised", "is_alive", "write_service"]


class Supervised(WorkerProcess):
    """A service under a supervisor, which logs JSON, so that a test can ask for events.

    Args:
        folder: Where it runs: `qbridge.yaml` and the handlers stand there.
        arguments: More arguments of `qbridge run`.
        command: What to run instead of `qbridge run`.
    """

    def __init__(self, folder: Path, *arguments: str, command: Sequence[str] = ()) -> None:
        super().__init__(folder, *arguments)
        if command:
            self._command = list(command)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A test that has failed must not wait for handlers that nobody lets go on.
        for worker in {int(entry["pid"]) for entry in self.events("worker started")}:
            if exc is not None and is_alive(worker):
                self.kill_worker(worker)
        super().__exit__(kind, exc, traceback)

    def events(self, message: str = "") -> list[dict[str, Any]]:
        """Return what was logged, in its order: events with this message, or all of them."""
        entries = [json.loads(line) for line in self.log if line.startswith("{")]
        return [entry for entry in entries if message in ("", entry["message"])]

    def wait_for_events(self, message: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many events with this message are in the log; return them."""
        self.wait_for(lambda _: len(self.events(message)) >= count, PATIENCE)
        return self.events(message)

    def wait_for_workers(self, count: int) -> list[int]:
        """Wait until so many workers have started in its life; return their process numbers, the oldest first."""
        return [int(entry["pid"]) for entry in self.wait_for_events("worker started", count)]

    def wait_until_gone(self, process: int) -> None:
        """Wait until a process has ended, though the supervisor may have ended before."""
        self.wait_until(lambda: not is_alive(process))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true, though the supervisor may have ended."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"that took too long; log: {self.log}"
            time.sleep(0.01)

    def terminate(self) -> None:
        """Let the service drain."""
        self.signal(signal.SIGTERM)

    def terminate_worker(self, process: int) -> None:
        """Send SIGTERM to one of its workers."""
        os.kill(process, signal.SIGTERM)

    def kill_worker(self, process: int) -> None:
        """Kill one of its workers with -9."""
        os.kill(process, signal.SIGKILL)

    def stop_worker(self, process: int) -> None:
        """Freeze one of its workers."""
        os.kill(process, signal.SIGSTOP)

    def continue_worker(self, process: int) -> None:
        """Let a frozen one go on."""
        os.kill(process, signal.SIGCONT)


def is_alive(process: int) -> bool:
    """Return whether a process runs. One that has ended and that nobody has asked for its exit code doesn't."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def write_service(
    folder: Path,
    handlers: str,
    *,
    processes: int = 2,
    concurrency: int = 1,
    recycle: str = "{}",
    grace: str = "60s",
    cancel_grace: str = "0.5s",
    queue: str = "{backend: sqlite, path: ./q.db, lease: 2s}",
) -> None:
    """Write a service with a long grace and short limits for all that follows it."""
    (folder / "shop_tasks.py").write_text(handlers)
    (folder / "qbridge.yaml").write_text(
        f"handlers: [shop_tasks]\n"
        f"queues:\n  default: {queue}\n"
        f"processes: {processes}\n"
        f"recycle: {recycle}\n"
        f"loops:\n  default: {{concurrency: {concurrency}}}\n"
        f"shutdown: {{grace: {grace}, cancel_grace: {cancel_grace}, flush: 1s}}\n"
        f"logging: {{format: json}}\n"
    )
