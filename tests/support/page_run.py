"""PageRun: does what a page of the documentation shows, block after block, in a folder of its own.

Python runs and prints what the page says, a file that grows once it is whole; commands exit 0 and print what the page
says; YAML is what `qbridge check` takes. Output is compared line by line. `...` stands for any text within a line, and
alone on a line for any lines; times of day, ids and process numbers are never compared.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import yaml

from tests.support.markdown import Block, blocks_of

__all__ = ["PageError", "PageRun", "commands_of"]

#: Before the fragments of a configuration that a page shows: what a whole one has.
_MISSING_KEYS = {"handlers": "handlers: []\n", "queues": "queues: {default: {backend: memory}}\n"}

#: Read in a process of the page's own, which has the page's backends.
_LOAD = "import sys, qbridge; qbridge.load_config(sys.argv[1])"

#: What differs from run to run, and what it is compared as.
_VARYING = (
    (re.compile(r"\b\d\d:\d\d:\d\d\.\d{3}\b"), "HH:MM:SS.mmm"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"), "DATE"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r'\b(pid"?[=:] ?)\d+\b'), r"\1PID"),
)


class PageError(AssertionError):
    """Something on a page is not as it shows."""


class PageRun:
    """One page's blocks, run in order. As a context manager it ends the terminals that are left running.

    Args:
        folder: An empty folder, where the page's files are written and its commands run.
        environment: Variables for its commands, over those of this process.
        not_run: Commands that a test can't run.
        patience: Seconds that a command may take, or what a page shows of a running one may take to appear.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, str],
        not_run: frozenset[str] = frozenset(),
        patience: float = 45.0,
    ) -> None:
        self._folder = folder
        self._patience = patience
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "error",
            "COLUMNS": "120",
            "NO_COLOR": "1",
            **environment,
        }
        self._not_run = not_run
        self._terminals: dict[str, _Terminal] = {}
        self._printed: str | None = None

    def __enter__(self) -> PageRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for terminal in self._terminals.values():
            terminal.kill()

    def run(self, text: str) -> None:
        """Run every block of a page.

        Raises:
            PageError: One of them is not as it shows; the text names its line.
        """
        blocks = blocks_of(text)
        for place, block in enumerate(blocks):
            # A file that grows is run when it is whole, or shows what it prints.
            is_whole = not block.title or block.title not in {later.title for later in blocks[place + 1 :]}
            shows_output = place + 1 < len(blocks) and blocks[place + 1].is_output
            try:
                self._run(block, is_run=is_whole or shows_output)
            except PageError as exc:
                raise PageError(f"line {block.line}: {exc}") from None
        for name, terminal in self._terminals.items():
            if terminal.is_running:
                raise PageError(f"the command in terminal {name!r} is never ended with ^C")

    def _run(self, block: Block, *, is_run: bool) -> None:
        printed, self._printed = self._printed, None
        if block.is_output:
            if printed is None:
                raise PageError("output without a Python block before it")
            _compare(block.text, printed)
            return
        if block.title:
            self._write(block)
        if block.language == "python":
            self._printed = self._run_python(block) if is_run else None
        elif block.language == "console":
            self._run_console(block)
        elif (check := _CHECKS.get(block.language)) is not None:
            check(self, block)
        elif block.language in {"sh", "bash", "shell"}:
            raise PageError("write commands as console, with a $ before each")

    def _write(self, block: Block) -> None:
        path = self._folder / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(block.text)

    def _run_python(self, block: Block) -> str:
        script = [block.title] if block.title else ["-c", block.text]
        code, printed = self._execute([sys.executable, *script])
        if code != 0:
            raise PageError(f"Python exits with {code}:\n{printed}")
        return printed

    def _run_console(self, block: Block) -> None:
        terminal = self._terminals.get(block.terminal)
        commands = commands_of(block.text)
        last = max((place for place, (command, _) in enumerate(commands) if command not in {"", "^C"}), default=-1)
        for place, (command, expected) in enumerate(commands):
            if command == "":
                if terminal is None:
                    raise PageError("output without a command before it")
                terminal.expect(expected)
            elif command == "^C":
                if terminal is None:
                    raise PageError("^C without a running command")
                terminal.interrupt(expected)
            elif command in self._not_run:
                continue
            elif block.terminal and place == last:
                if terminal is not None and terminal.is_running:
                    raise PageError(f"a command runs already in terminal {block.terminal!r}")
                terminal = self._terminals[block.terminal] = _Terminal(
                    command, self._folder, self._environment, self._patience
                )
                terminal.expect(expected)
            else:
                code, printed = self._execute(["bash", "-c", command])
                if code != 0:
                    raise PageError(f"{command!r} exits with {code}:\n{printed}")
                if expected:
                    _compare(expected, printed)

    def _execute(self, arguments: list[str]) -> tuple[int, str]:
        try:
            done = subprocess.run(
                arguments,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=self._patience,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise PageError(f"{arguments[-1]!r} did not end within {self._patience:g} s: {exc.output!r}") from None
        return done.returncode, done.stdout

    def _check_yaml(self, block: Block) -> None:
        if block.title and not Path(block.title).name.startswith("qbridge"):
            yaml.safe_load(block.text)  # another program's file
            return
        try:
            given = yaml.safe_load(block.text)
            text = "".join(added for key, added in _MISSING_KEYS.items() if key not in given) + block.text
        except (yaml.YAMLError, TypeError) as exc:
            raise PageError(f"not YAML: {exc}") from None
        path = self._folder / f"block-{block.line}.yaml"
        path.write_text(text, "utf-8")
        code, printed = self._execute([sys.executable, "-c", _LOAD, str(path)])
        if code != 0:
            raise PageError(f"not a configuration: {printed.splitlines()[-1]}")

    def _check_toml(self, block: Block) -> None:
        try:
            project = tomllib.loads(block.text)["project"]
        except (tomllib.TOMLDecodeError, KeyError) as exc:
            raise PageError(f"not a pyproject.toml: {exc!r}") from None
        # What an editable install would leave: `pip install -e .` would change the tests' own environment.
        found = self._folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        found.mkdir()
        (found / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        entry_points = configparser.ConfigParser(delimiters=("=",))
        entry_points.read_dict(project["entry-points"])
        with (found / "entry_points.txt").open("w") as file:
            entry_points.write(file)

    def _check_json(self, block: Block) -> None:
        try:
            json.loads(block.text)
        except ValueError as exc:
            raise PageError(f"not JSON: {exc}") from None

    def _check_ini(self, block: Block) -> None:
        try:
            configparser.ConfigParser(interpolation=None, strict=False).read_string(block.text)
        except configparser.Error as exc:
            raise PageError(f"not an INI file: {exc}") from None


def commands_of(text: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output shown below it; output before any is under ""."""
    commands: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], ""))
        elif line.startswith("> ") and commands and not commands[-1][1]:
            commands[-1] = (f"{commands[-1][0]}\n{line[2:]}", "")
        elif line == "^C":
            commands.append((line, ""))
        else:
            command, output = commands.pop() if commands else ("", "")
            commands.append((command, f"{output}{line}\n"))
    return commands


class _Terminal:
    """A command that goes on running while the page goes on."""

    def __init__(self, command: str, folder: Path, environment: Mapping[str, str], patience: float) -> None:
        self._command = command
        self._patience = patience
        self._process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._printed = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def expect(self, expected: str) -> None:
        """Wait until it has printed what is expected next, and forget what it has printed up to there."""
        pattern = re.compile(_pattern(expected))
        deadline = time.monotonic() + self._patience
        with self._changed:
            while (match := pattern.match(_normal(self._printed))) is None:
                ended = not self._reader.is_alive()
                if ended or not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise PageError(
                        f"{self._command!r} did not print what is shown:\n{expected}\nbut:\n{self._printed}"
                    )
            # Whole lines were matched, and none of what is made normal spans lines.
            count = match[0].count("\n")
            self._printed = "".join(self._printed.splitlines(keepends=True)[count:])

    def interrupt(self, expected: str) -> None:
        """Press Ctrl-C; the command must end with 0 and print what is expected."""
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            raise PageError(f"{self._command!r} did not end after ^C") from None
        self._end()
        if code != 0:
            raise PageError(f"{self._command!r} exits with {code} after ^C:\n{self._printed}")
        if expected:
            _compare(expected, self._printed)

    def kill(self) -> None:
        """End it, if it runs."""
        if self.is_running:
            self._process.kill()
            self._process.wait()
        self._end()

    def _end(self) -> None:
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with self._changed:
                self._printed += line
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


_CHECKS: dict[str, Callable[[PageRun, Block], None]] = {
    "yaml": PageRun._check_yaml,
    "toml": PageRun._check_toml,
    "json": PageRun._check_json,
    "ini": PageRun._check_ini,
}


def _compare(expected: str, printed: str) -> None:
    if re.fullmatch(_pattern(expected), _normal(printed)) is None:
        raise PageError(f"the page shows\n{expected}but what is printed is\n{printed}")


def _normal(text: str) -> str:
    """Return a text without what differs from run to run, and without blanks at the ends of its lines."""
    for varying, constant in _VARYING:
        text = varying.sub(constant, text)
    lines = text.split("\n")
    return "\n".join([*(line.rstrip() for line in lines[:-1]), lines[-1]])


def _pattern(expected: str) -> str:
    parts = []
    for line in _normal(expected).splitlines():
        if line.strip() == "...":
            parts.append(r"(?:.*\n)*?")
        else:
            parts.append(".*".join(re.escape(part) for part in line.split("...")) + r"\n")
    return "".join(parts)
