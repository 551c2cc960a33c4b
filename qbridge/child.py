"""WorkerProcess: one worker process as its supervisor sees it: started, heard, told to stop, reaped."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

from qbridge.lifeline import MARKER, Line, Lines
from qbridge.retry import RetryPolicy

__all__ = ["STEADY", "Restarts", "WorkerProcess"]

#: Pauses between the death of a worker and the start of the next one.
_PAUSES = RetryPolicy(base=0.5, cap=30.0, backoff="exponential", jitter=True)

#: Seconds after which a worker that ends is no longer taken for one that can't last.
STEADY = 60.0

#: Seconds that a killed process may take to be gone.
_DYING = 1.0

_CHUNK = 65_536


class Restarts:
    """The pauses of one slot: they grow while its processes die young, up to 30 seconds, and never end."""

    def __init__(self) -> None:
        self._deaths = 0

    def pause_after(self, lived: float) -> float:
        """Return the seconds to wait before the next process, when one has died after so many seconds."""
        self._deaths = 1 if lived >= STEADY else self._deaths + 1
        return _PAUSES.delay_after(self._deaths)


class WorkerProcess:
    """A worker process from its start to its end. Belongs to the supervisor's loop.

    It has a session of its own, so Ctrl-C in a terminal reaches the supervisor alone, and standard output and error of
    the supervisor.

    Args:
        slot: Which of the supervisor's workers it is, from 1.
        command: What to run.
        configuration: The text of the YAML file.
        on_news: Called when it has said something that is not just a sign of life.

    Raises:
        OSError: It can't be started.
    """

    def __init__(self, slot: int, command: Sequence[str], configuration: bytes, *, on_news: Callable[[], None]) -> None:
        self.slot = slot
        self._on_news = on_news
        self._loop = asyncio.get_running_loop()
        self._lines = Lines()
        self._unsent = bytearray()
        self._connection, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env={**os.environ, MARKER: f"{slot}:{theirs.fileno()}"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()
        self._connection.setblocking(False)
        self._loop.add_reader(self._connection, self._receive)
        self._started_at = monotonic()
        #: When it gave its last sign of life, on the monotonic clock.
        self.seen_at = self._started_at
        #: Whether it takes signals and heeds the supervisor; before, it imports.
        self.is_ready = False
        #: Whether it was told to stop.
        self.is_stopping = False
        #: Why it should be followed by a fresh one; "" if it shouldn't.
        self.worn_by = ""
        #: What it says is wrong with the configuration.
        self.problems: tuple[str, ...] = ()
        #: What it told last of itself, for probes, and when that was, on the monotonic clock.
        self.snapshot: object = None
        self.snapshot_at = self._started_at
        #: The exit code that it announced when its drain was over.
        self.told_end: int | None = None
        self._say(Line("configuration", configuration.decode("latin-1")))

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def lived(self) -> float:
        """Seconds since it was started."""
        return monotonic() - self._started_at

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal, once it has ended and all it has said is read; else None."""
        code = self._process.poll()
        if code is not None:
            while self._receive():
                pass
        return code

    def stop(self, *, now: bool = False) -> None:
        """Let it drain; with `now`, let it cancel what runs. Before it is ready it has nothing to lose, and dies."""
        if not self.is_stopping:
            self.is_stopping = True
            self.seen_at = monotonic()
        self._say(Line("stop", now))
        if not self.is_ready:
            self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, and wait a moment for that."""
        self.signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_DYING)

    def close(self) -> None:
        """Let go of the socket. May be called twice."""
        self._loop.remove_reader(self._connection)
        self._loop.remove_writer(self._connection)
        self._connection.close()

    def _receive(self) -> bool:
        """Read what there is, up to a chunk; return whether there may be more."""
        try:
            received = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            received = b""
        if not received:
            self._loop.remove_reader(self._connection)
            return False
        self.seen_at = monotonic()
        news = [self._hear(line) for line in self._lines.feed(received)]
        if any(news):
            self._on_news()
        return True

    def _hear(self, line: Line) -> bool:
        """Note what it says; return whether that is news, and not just a sign of life."""
        if line.word == "ready":
            self.is_ready = True
        elif line.word == "recycle" and not self.worn_by:
            self.worn_by = str(line.value)
        elif line.word == "problems" and isinstance(line.value, list):
            self.problems = tuple(map(str, line.value))
        elif line.word == "snapshot":
            had_none = self.snapshot is None
            self.snapshot, self.snapshot_at = line.value, monotonic()
            return had_none
        elif line.word == "ended" and isinstance(line.value, int):
            self.told_end = line.value
        else:
            return False
        return True

    def _say(self, line: Line) -> None:
        self._unsent += line.encode()
        self._send()

    def _send(self) -> None:
        """Send what the socket takes, and the rest when it takes more: a worker reads only when it has started."""
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
        except BlockingIOError:
            self._loop.add_writer(self._connection, self._send)
            return
        except OSError:  # it has gone; its end is seen elsewhere
            self._unsent.clear()
        with suppress(OSError, ValueError):
            self._loop.remove_writer(self._connection)
