"""The command line: the only part of qbridge that ends the process.

Each command stands in a file of its own. Typer is loaded when a command is parsed, and rich when something is drawn on
a terminal, so that a command that needs neither waits for neither.
"""

from __future__ import annotations

import io
import os
import sys
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
            from qbridge.cli.app import app
            from qbridge.logs import configure_logging
    except KeyboardInterrupt:
        sys.exit(130)
    configure_logging("warning", "console")
    app(prog_name="qbridge")


def _prepare_streams() -> None:
    """Let every text be printable, whatever the locale, and every stream be there, as after `>&-`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # open as long as the process
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
