"""WorkerProcess: a real `qbridge run` in a process of its own, for tests that read it, signal it and kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["WorkerProcess"]

#: Seconds that anything a test waits for may take on a busy machine.
PATIENCE = 30.0


class WorkerProcess:
    """One worker. As a context manager it is started on entry, and killed on exit if it still runs.

    Args:
        folder: Where it runs: `qbridge.yaml` and the handlers stand there.
        arguments: More arguments of `qbridge run`.
        environment: Variables to add to the process's environment.
        config: The YAML file's name in `folder`.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        config: str = "qbridge.yaml",
    ) -> None:
        self._folder = folder
        self._command = [sys.executable, "-m", "qbridge", "run", "-c", config, *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._changed = threading.Condition()
        #: What it has printed, line by line.
        self.lines: list[str] = []
        #: What it has logged, line by line.
        self.log: list[str] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for stream, lines in ((self._process.stdout, self.lines), (self._process.stderr, self.log)):
            reader = threading.Thread(target=self._read, args=(stream, lines))
            reader.start()
            self._readers.append(reader)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running.poll() is None:
            self._running.kill()
        self.wait()

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._running.pid

    @property
    def code(self) -> int | None:
        """The exit code of its process; None while it runs."""
        return self._running.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._running.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait until it has ended and all its output is read; return its exit code (-9 after a SIGKILL)."""
        code = self._running.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        for stream in (self._running.stdout, self._running.stderr):
            assert stream is not None
            stream.close()
        return code

    def wait_for(self, enough: Callable[[list[str]], bool], timeout: float = PATIENCE) -> None:
        """Wait until what it has printed is enough; fail with its output and its log if that takes too long."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not enough(self.lines):
                if not self._changed.wait(min(0.2, max(0.0, deadline - time.monotonic()))):
                    ended = self._running.poll()
                    if time.monotonic() > deadline or (ended is not None and not enough(self.lines)):
                        raise AssertionError(
                            f"the worker (exit code {ended}) did not print enough: {self.lines}\nlog: {self.log}"
                        )

    def wait_until_ready(self, timeout: float = PATIENCE) -> None:
        """Wait until its sources are open."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not any("source ready" in line for line in self.log):
                self._changed.wait(0.2)
                if time.monotonic() > deadline or self._running.poll() is not None:
                    raise AssertionError(f"the worker did not get ready: {self.log}")

    @property
    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "enter it first"
        return self._process

    def _read(self, stream: object, lines: list[str]) -> None:
        for line in stream:  # type: ignore[attr-defined]  # a text stream, which has no common type
            with self._changed:
                lines.append(line.rstrip("\n"))
                self._changed.notify_all()
