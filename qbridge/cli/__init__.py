"""The command line: the only part of qbridge that ends the process.

Each command stands in a file of its own and is loaded when it is run. Typer is loaded when there is something to parse,
and rich when something is drawn on a terminal, so that a command that needs neither waits for neither.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from qbridge import __version__
from qbridge.interpreter import uncollected

__all__ = ["main"]


def main() -> None:
    """Run the command that `sys.argv` names, and end the process with its exit code."""
    _prepare_streams()
    if sys.argv[1:] in (["--version"], ["-V"]):
        sys.stdout.write(f"qbridge {__version__}\n")
        return
    try:
        with uncollected():
            command = _loaded_command()
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(command())


def _loaded_command() -> Callable[[], int]:
    """Return what runs the command line, with all that it needs loaded."""
    from qbridge.logs import configure_logging

    configure_logging("warning", "console")
    file = _file_of_plain_run(sys.argv[1:], os.environ)
    if file is not None:
        from qbridge.cli.ends import end_of
        from qbridge.cli.working import work

        return partial(end_of, partial(work, file, {}))
    from qbridge.cli.app import app

    return partial(app, prog_name="qbridge")


def _file_of_plain_run(words: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """Return the YAML file of a `qbridge run` that has nothing more to say; None for all that has to be parsed.

    That is how services are started. The parser, which also tells of a file that can't be read, would take 17 ms and
    1.4 MiB of them (November 2026, CPython 3.11).
    """
    match words:
        case ["run"]:
            file = "qbridge.yaml"
        case ["run", "-c" | "--config", file]:
            pass
        case _:
            return None
    # A flag may stand in a variable too; two underscores make it a key of the file.
    is_flagged = any(name.startswith("QBRIDGE_") and "__" not in name for name in environment)
    is_completed = "_QBRIDGE_COMPLETE" in environment
    is_plain = not (is_flagged or is_completed or file.startswith("-")) and os.access(file, os.R_OK)
    return Path(file) if is_plain else None


def _prepare_streams() -> None:
    """Let every text be printable, whatever the locale, and every stream be there, as after `>&-`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # open as long as the process
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
