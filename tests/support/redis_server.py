"""RedisServer: a real redis-server of one's own, for tests that stop, kill, freeze and restart it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.support.stopped import wait_until_stopped

__all__ = ["RedisServer", "redis_server_is_installed"]

#: How the server is run. `make test-brokers` sets the variable to run another one, in a chroot.
SERVER = shlex.split(os.environ.get("QBRIDGE_TEST_REDIS_SERVER", "redis-server"))

#: Seconds that a server may take to start, or to stop when asked.
_PATIENCE = 15.0


def redis_server_is_installed() -> bool:
    """Return whether the programs that `RedisServer` runs are there."""
    return shutil.which(SERVER[0]) is not None and shutil.which("redis-cli") is not None


class RedisServer:
    """One redis-server on a free port of the loopback interface, with its files in a temporary folder.

    As a context manager it is started on entry; on exit it is stopped and its files are removed. In between it may be
    stopped, killed and started again, always on the same port and with the same files. Every method blocks until what
    it does is done, and may be called when it is done already. A server doesn't outlive the program that started it,
    not even if that one is killed.

    Args:
        append_only: Keep an append-only file, so that what was accepted survives `stop()`, and mostly `kill()`: while
            the disk is slow, Redis may keep writes back for two seconds.
        sync_always: Sync that file with every write, so that everything that was accepted survives `kill()`.
        arguments: More command-line arguments, such as `("--requirepass", "secret")`.
        password: What `cli()` and the start-up check log in with; the server itself learns it from `arguments`.
    """

    def __init__(
        self,
        *,
        append_only: bool = True,
        sync_always: bool = False,
        arguments: tuple[str, ...] = (),
        password: str = "",
    ) -> None:
        self.port = _free_port()
        self._append_only = append_only
        self._sync_always = sync_always
        self._arguments = arguments
        self._password = password
        self._folder = Path(tempfile.mkdtemp(prefix="qbridge-redis-"))
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def url(self) -> str:
        """The URL of its database 0, without credentials."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Return the URL of one of its databases, without credentials."""
        return f"redis://127.0.0.1:{self.port}/{database}"

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._folder

    @property
    def log(self) -> Path:
        """The log of its latest start."""
        return self._folder / f"server-{self._starts}.log"

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether its process exists, be it frozen."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers and has loaded its data."""
        if self.is_running:
            return
        has_run = self._process is not None
        deadline = time.monotonic() + _PATIENCE
        while True:
            self._launch()
            if self._wait_until_ready(deadline):
                return
            if self.is_running or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"redis-server did not start on port {self.port}:\n{self._log()}")
            # It ended by itself: most likely somebody else has taken the port since it was found free.
            self._dismiss_guard()
            if not has_run:
                self.port = _free_port()
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask it to end, as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, like a crash; also when it is frozen."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let it hang: it keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until_stopped(self.pid)

    def thaw(self) -> None:
        """Let it go on after `freeze()`."""
        if self.is_running:
            os.kill(self.pid, signal.SIGCONT)

    def cli(self, *arguments: str | bytes | int, stdin: bytes | None = None, database: int = 0) -> str:
        """Run redis-cli with these arguments; return what it prints, without the last newline.

        Args:
            arguments: A command and its words.
            stdin: With `-x` among the arguments, the last word, as bytes.
            database: Which database to work on.

        Raises:
            RuntimeError: It fails, or the server replies with an error.
        """
        environment = {**os.environ, "REDISCLI_AUTH": self._password} if self._password else None
        done = subprocess.run(
            ["redis-cli", "-e", "-h", "127.0.0.1", "-p", str(self.port), "-n", str(database), *map(_word, arguments)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            env=environment,
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"redis-cli {arguments!r} failed: {(done.stdout + done.stderr).decode(errors='replace')}"
            )
        return done.stdout.decode(errors="surrogateescape").removesuffix("\n")

    def info(self, section: str) -> dict[str, str]:
        """Return the fields of a section of INFO."""
        lines = self.cli("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def remove(self) -> None:
        """End it and delete its files."""
        self.thaw()
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self) -> None:
        self._starts += 1
        self._process = subprocess.Popen(
            [
                *SERVER,
                *("--bind", "127.0.0.1", "--port", str(self.port), "--unixsocket", "", "--dir", str(self._folder)),
                *("--save", "", "--appendonly", "yes" if self._append_only else "no"),
                *("--appendfsync", "always" if self._sync_always else "everysec"),
                *("--logfile", str(self.log), "--daemonize", "no"),
                *self._arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Reads from a pipe that nobody writes to: it ends when this program does, in whichever way.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -KILL "$1"; rm -rf "$2"', "sh", str(self._process.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait(_PATIENCE)
            assert guard.stdin is not None
            guard.stdin.close()

    def _wait_until_ready(self, deadline: float) -> bool:
        while self.is_running and time.monotonic() < deadline:
            # The log as well: a stranger that took the port may answer, and then ours is about to end.
            if "Ready to accept" in self._log() and self._answers():
                return True
            time.sleep(0.01)
        return False

    def _answers(self) -> bool:
        # While it loads its data it answers PING with -LOADING. Where it wants a password, -NOAUTH will do.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.settimeout(1)
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _end(self, how: signal.Signals) -> None:
        self._dismiss_guard()
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_PATIENCE)

    def _log(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "(no log)"


def _word(argument: str | bytes | int) -> str | bytes:
    return argument if isinstance(argument, bytes) else str(argument)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
