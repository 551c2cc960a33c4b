"""A service in a folder of its own, and its commands: called in this process, or run as a real one."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qbridge import Outgoing, QBridge, QueueStats, TaskMessage, load_config
from qbridge.cli.app import app

__all__ = ["HANDLERS", "PATIENCE", "YAML", "Ended", "ServiceFolder", "service"]

#: Seconds that a command may take on a busy machine.
PATIENCE = 30.0

YAML = """
    handlers: [shop_tasks]
    queues:
      default: {backend: sqlite, path: ./q.db}
"""

HANDLERS = """
    from typing import Annotated
    from pydantic import Field
    from qbridge import HandlerRegistry, Reject, RetryPolicy, TaskContext

    registry = HandlerRegistry()

    @registry.task
    async def greet(name: str, times: int = 1) -> None:
        print("hello", name, times)

    @registry.task(timeout=90, retry=RetryPolicy(max_attempts=1))
    def count(number: Annotated[int, Field(ge=0)], context: TaskContext) -> None:
        print("count", number)

    @registry.task
    async def cleanup() -> None:
        print("clean")

    @registry.task
    async def refuse(why: str) -> None:
        raise Reject(why)
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """What it told on standard error, line by line."""
        return self.err.splitlines()


class ServiceFolder:
    """A folder with `qbridge.yaml` and `shop_tasks.py`; commands are run in it.

    Args:
        path: The folder, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("qbridge.yaml", YAML)
        self.write("shop_tasks.py", HANDLERS)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the folder; the text may be indented as a whole."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).removeprefix("\n"))
        return file

    def invoke(self, *arguments: str, env: Mapping[str, str | None] | None = None) -> Ended:
        """Call a command in this process, with an empty standard input that is no terminal."""
        result = CliRunner().invoke(app, arguments, env=env, prog_name="qbridge", catch_exceptions=False)
        return Ended(result.exit_code, result.stdout, result.stderr)

    def run(
        self, *arguments: str, stdin: str | bytes = b"", env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> Ended:
        """Run a command as a process."""
        done = subprocess.run(
            [sys.executable, "-m", "qbridge", *arguments],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            cwd=cwd or self.path,
            env=environment(env),
            timeout=PATIENCE,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command with pipes to all its streams; it is killed at the end if it still runs."""
        with subprocess.Popen(
            [sys.executable, "-m", "qbridge", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.path,
            env=environment(),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run_on_terminal(
        self,
        *arguments: str,
        types: str = "",
        prompt: str = "",
        interrupts: bool = False,
        stdin: Path | None = None,
        stdout: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run a command on a terminal of its own, 80 columns wide; type something when it has shown a prompt.

        Args:
            arguments: The command.
            types: What is typed.
            prompt: What is waited for before.
            interrupts: Whether Ctrl-C comes instead.
            stdin: A file to read instead of the terminal.
            stdout: A file to write what goes to standard output, instead of the terminal.
            env: More variables.

        Returns:
            Its end; `out` is what the terminal shows, standard error included.
        """
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        with ExitStack() as stack:
            stack.callback(os.close, master)
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "qbridge", *arguments],
                    stdin=stack.enter_context(stdin.open("rb")) if stdin else slave,
                    stdout=stack.enter_context(stdout.open("wb")) if stdout else slave,
                    stderr=slave,
                    cwd=self.path,
                    env=environment({"TERM": "xterm", "COLUMNS": "80", **(env or {})}),
                    start_new_session=True,
                )
            )
            stack.callback(process.kill)
            os.close(slave)
            shown = _read_until(master, prompt) if prompt else b""
            os.write(master, types.encode())
            while interrupts and process.poll() is None:
                # One that comes just before readline waits is seen by it only with the next.
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1)
            shown += _read_until(master, None)
            code = process.wait(PATIENCE)
        return Ended(code, shown.decode().replace("\r\n", "\n"), "")

    def send(self, task: str, *arguments: object, queue: str | None = None) -> str:
        """Send a task as a program would, unchecked; return its id."""

        async def sending() -> str:
            async with QBridge.from_config(None, load_config(self.path / "qbridge.yaml")) as bridge:
                [message_id] = await bridge.send_many([TaskMessage(task=task, args=list(arguments))], queue=queue)
            return message_id

        return asyncio.run(sending())

    def bury(self, queue: str, *bodies: bytes, reason: str = "exhausted", errors: Sequence[str] = ()) -> list[str]:
        """Make dead letters of these bytes, as if each had failed with these errors; return their ids."""
        errors = errors or [f"ValueError: {reason}"]

        async def burying() -> list[str]:
            ids: list[str] = []
            config = load_config(self.path / "qbridge.yaml")
            async with QBridge.from_config(None, config) as bridge, bridge.source(queue) as source:
                for body in bodies:
                    await source.send([Outgoing(body=body, message_id=uuid.uuid4().hex)])
                    for error in errors[:-1]:
                        [delivery] = await source.receive(limit=1, wait=5)
                        await source.settle([delivery.retry(0, error)])
                    [delivery] = await source.receive(limit=1, wait=5)
                    await source.settle([delivery.dead_letter(reason, errors[-1])])
                    ids.append(delivery.message_id)
            return ids

        return asyncio.run(burying())

    def take(self, queue: str | None = None, *, count: int = 1) -> list[TaskMessage]:
        """Claim and remove messages that are ready, up to `count`; return them as a worker would see them."""

        async def taking() -> list[TaskMessage]:
            config = load_config(self.path / "qbridge.yaml")
            name = queue or next(iter(config.queues))
            codec = config.queues[name].codec.create_codec()
            async with QBridge.from_config(None, config) as bridge, bridge.source(name) as source:
                deliveries = await source.receive(limit=count, wait=0)
                await source.settle([delivery.ack() for delivery in deliveries])
            return [codec.decode(delivery) for delivery in deliveries]

        return asyncio.run(taking())

    def stats(self, queue: str | None = None) -> QueueStats:
        """Return what is in a queue."""

        async def asking() -> QueueStats:
            config = load_config(self.path / "qbridge.yaml")
            async with QBridge.from_config(None, config) as bridge, bridge.source(queue) as source:
                return await source.stats()

        return asyncio.run(asking())


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceFolder]:
    """A service in the working directory; modules that a command imports from there are forgotten afterwards."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)

    yield ServiceFolder(tmp_path)

    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without what a test's outcome could depend on, and with changes."""
    odd = ("QBRIDGE_", "NO_COLOR", "PYTHONUNBUFFERED")  # unbuffered, a command that forgets to flush seems right
    plain = {name: value for name, value in os.environ.items() if not name.startswith(odd)}
    return {**plain, **(changes or {})}


def _read_until(terminal: int, text: str | None) -> bytes:
    """Return what a terminal shows, up to a text, or until nobody writes to it any more."""
    shown = b""
    deadline = time.monotonic() + PATIENCE
    while text is None or text.encode() not in shown:
        is_readable, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert is_readable, f"the command did not show {text!r}, or did not end: {shown!r}"
        try:
            part = os.read(terminal, 65536)
        except OSError:  # EIO: its last writer has gone
            break
        if not part:
            break
        shown += part
    return shown
