"""How a command ends: what it raised becomes lines on standard error and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from qbridge.errors import (
    ConfigError,
    MessageError,
    QBridgeError,
    SourceMisconfigured,
    SourceUnavailable,
    UnknownQueueError,
    UnknownTaskError,
)
from qbridge.service import ExitCode

__all__ = ["BROKEN_PIPE", "INTERRUPTED", "CommandFailed", "end_of", "exit_code_of", "tell", "warn"]

#: Ctrl-C ended a command that is not a worker: 128 + SIGINT, as shells have it.
INTERRUPTED = 130

#: Whoever read the output has gone, as `| head` does: 128 + SIGPIPE.
BROKEN_PIPE = 141


class CommandFailed(Exception):  # noqa: N818  # an end, not a fault of the program
    """A command ends with an exit code after telling why.

    Args:
        problems: One line for each.
        code: How the process ends.
    """

    def __init__(self, *problems: str, code: ExitCode = ExitCode.FAILURE) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.code = code


def end_of(command: Callable[[], object], *, wants_traceback: Callable[[], bool] = lambda: False) -> int:
    """Run a command and return its exit code. Whatever it raises is told on standard error, and raised no further.

    Args:
        command: It returns its exit code, or anything else for 0.
        wants_traceback: Asked when an error was not expected.
    """
    try:
        result = command()
        code = int(result) if isinstance(result, int) else 0
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as exc:  # noqa: BLE001  # the border of the process
        expected = _expected(exc)
        if expected is None:
            if wants_traceback():
                traceback.print_exception(exc)
            expected = [f"unexpected {type(exc).__name__}: {exc} (--debug shows the traceback)"], ExitCode.FAILURE
        problems, code = expected
        tell(problems)
        try:
            sys.stdout.flush()
        except OSError:
            _forget_output()
    return code


def exit_code_of(exc: QBridgeError) -> ExitCode:
    """Return how a command ends after an error of qbridge's own."""
    if isinstance(exc, (ConfigError, SourceMisconfigured)):
        return ExitCode.CONFIG
    if isinstance(exc, SourceUnavailable):
        return ExitCode.UNREACHABLE
    if isinstance(exc, (UnknownQueueError, UnknownTaskError, MessageError)):
        return ExitCode.USAGE
    return ExitCode.FAILURE


def tell(problems: Iterable[str]) -> None:
    """Write problems to standard error, a line for each."""
    _write("error", problems)


def warn(problems: Iterable[str]) -> None:
    """Write warnings to standard error, a line for each."""
    _write("warning", problems)


def _write(kind: str, lines: Iterable[str]) -> None:
    from qbridge.cli.output import one_line  # a command that goes well may have nothing to print

    with suppress(BrokenPipeError):
        sys.stderr.write("".join(f"{kind}: {one_line(line)}\n" for line in lines))
        sys.stderr.flush()


def _expected(exc: Exception) -> tuple[Sequence[str], ExitCode] | None:
    """Return the lines that tell of an exception, and the exit code; None if it is a fault of the program."""
    if isinstance(exc, CommandFailed):
        return exc.problems, exc.code
    if isinstance(exc, ConfigError):
        return exc.problems, ExitCode.CONFIG
    if isinstance(exc, QBridgeError):
        return [str(exc)], exit_code_of(exc)
    if isinstance(exc, OSError) and exc.strerror:
        place = f"{exc.filename}: " if exc.filename else ""
        return [f"{place}{exc.strerror}"], ExitCode.FAILURE
    return None


def _forget_output() -> None:
    """Let what is still buffered go nowhere: the interpreter would complain when it flushes at the end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
