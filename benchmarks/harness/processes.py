"""Processes of a run: started in a session of their own, watched, and ended whatever they do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

__all__ = ["DidNotFinishError", "Running", "finish"]

#: Seconds that a process may take to end after SIGTERM.
PATIENCE = 5.0
LINES = 12


class DidNotFinishError(Exception):
    """A run failed or exceeded its limit.

    Args:
        reason: What happened.
        log: The last lines of whoever failed.
    """

    def __init__(self, reason: str, log: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.log = list(log)


class Running:
    """A process, with its children; what it prints goes to a file. As a context manager it is ended on exit.

    It doesn't outlive this program, not even if that is killed.

    Args:
        argv: Its command line.
        environment: All of its environment.
        folder: Its working folder.
        log: The file that it prints to.
    """

    def __init__(self, argv: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # Reads from a pipe that nobody writes to: it ends when this program does, in whichever way.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -s KILL -- "-$1"', "sh", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def last_lines(self) -> list[str]:
        """Return the last lines that it printed."""
        return self._log.read_text(errors="replace").splitlines()[-LINES:]

    def memory(self) -> float:
        """Return the resident memory of it and its children in MiB; pages that they share count once for each."""
        return sum(_of_tree(self._process.pid, lambda process: process.memory_info().rss)) / 2**20

    def processor_time(self) -> float:
        """Return the seconds of processor time that it and its children have used."""
        return sum(_of_tree(self._process.pid, lambda process: sum(process.cpu_times()[:2])))

    def stop(self) -> None:
        """Ask it to end; after some seconds end it and all that it started. May be called twice."""
        self._guard.kill()  # its process group may soon be another one's
        self._guard.wait(PATIENCE)
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        if self.is_running:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
        # Children may have outlived it: they are in its session.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)


def _of_tree(pid: int, measure: Callable[[psutil.Process], float]) -> list[float]:
    found = []
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                found.append(float(measure(process)))
    return found


def finish(argv: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path, longest: float) -> str:
    """Run a command to its end; return what it printed.

    Raises:
        DidNotFinishError: It failed, or took longer than so many seconds.
    """
    first = log.stat().st_size if log.exists() else 0
    with Running(argv, environment=environment, folder=folder, log=log) as running:
        deadline = time.monotonic() + longest
        while running.is_running:
            if time.monotonic() > deadline:
                raise DidNotFinishError(f"{' '.join(argv[1:6])} did not end within {longest:g} s", running.last_lines())
            time.sleep(0.02)
        if running.exit_code != 0:
            raise DidNotFinishError(
                f"{' '.join(argv[1:6])} ended with exit code {running.exit_code}", running.last_lines()
            )
    return log.read_bytes()[first:].decode(errors="replace")
