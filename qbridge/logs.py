"""How a service writes its log: lines for people, or one JSON object a line for machines. To standard error.

The library itself only logs; this is called by the service, never by an import.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = ["configure_logging"]

#: What every LogRecord has by itself; the rest was given as `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

#: Client libraries that tell of every step. What fails in them is raised by their backend and told once, by whoever
#: handles it: pika alone writes nine lines, seven of them errors, about each vain attempt to connect.
_CLIENTS = ("pika",)


def configure_logging(
    level: str,
    format: Literal["console", "json"],  # noqa: A002  # the YAML's word
    *,
    worker: int | None = None,
) -> None:
    """Send the log of the whole process to standard error.

    Args:
        level: `debug`, `info`, `warning` or `error`; below `debug` nothing that client libraries say is told.
        format: `console` for people, `json` for machines.
        worker: Which of several worker processes this is: each line tells it, and the process.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(worker) if format == "json" else _ConsoleFormatter(worker))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for client in _CLIENTS:
        logging.getLogger(client).setLevel(logging.INFO if level == "debug" else logging.CRITICAL)
    if level == "debug":  # event loops and clients tell of each poll, and some of credentials
        logging.getLogger("asyncio").setLevel(logging.INFO)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _OWN and not key.startswith("_")}


class _ConsoleFormatter(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._origin = "" if worker is None else f"[{worker}/{os.getpid()}] "

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        # Values may be anybody's text: one event stays one line, but for a traceback or stack, set in below it.
        values = {key: str(value) for key, value in _extras(record).items()}
        stack = values.pop("stack", "")
        error, _, trace = values.get("error", "").partition("\n")
        if error:
            values["error"] = error
        message, _, more = record.getMessage().partition("\n")
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in values.items())
        if record.exc_info:
            trace = self.formatException(record.exc_info)
        below = "".join(f"\n  {_printable(line)}" for part in (more, trace, stack) if part for line in part.split("\n"))
        return f"{time} {record.levelname.lower():7} {self._origin}{_printable(message)}{pairs}{below}"


class _JsonFormatter(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._origin = {} if worker is None else {"worker": worker, "pid": os.getpid()}

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._origin,
            **_extras(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def _quoted(value: str) -> str:
    is_plain = value.isprintable() and " " not in value and value != ""
    # JSON itself escapes only some of what ends a line or moves the cursor of a terminal.
    return value if is_plain else json.dumps(value, ensure_ascii=not value.isprintable())


def _printable(line: str) -> str:
    return line if line.isprintable() else line.encode("unicode_escape").decode()
