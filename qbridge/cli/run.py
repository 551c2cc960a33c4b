"""`qbridge run`: the worker service."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from qbridge.cli.flags import ConfigFile, DebugFlag, Settings, flag, overrides_given
from qbridge.cli.working import work

__all__ = ["EXAMPLES", "run"]

EXAMPLES = (
    "qbridge run",
    "qbridge run -c shop/qbridge.yaml --log-format json",
    "qbridge run --burst --set loops.default.concurrency=50",
)


class LogLevel(StrEnum):
    """The least important lines that are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How the log is written."""

    CONSOLE = "console"
    JSON = "json"


def run(
    *,
    config: ConfigFile = Path("qbridge.yaml"),
    settings: Settings,
    burst: Annotated[bool, flag("--burst", help="End when no queue has a task that could start.")] = False,
    log_level: Annotated[
        LogLevel | None, flag("--log-level", help="Instead of logging.level in the file.", show_default=False)
    ] = None,
    log_format: Annotated[
        LogFormat | None, flag("--log-format", help="Instead of logging.format in the file.", show_default=False)
    ] = None,
    debug: DebugFlag = False,
) -> int:
    """Run the service: take tasks from all its queues, until a signal.

    The first SIGTERM or SIGINT (Ctrl-C) drains: what runs may finish within shutdown.grace, what has not started goes
    back to its queue. A second one cancels what runs, and a third leaves at once. Handlers are imported from beside
    the file first. The log goes to standard error; standard output is the handlers' own.

    With processes in the file it starts so many workers, and others for those that die; a signal to this process is
    for all of them.

    Exit codes: 0 drained, 3 a broker was away at the start and fail_fast is set, 5 handlers were cancelled and their
    tasks put back, 6 work was abandoned, 7 a worker process has died, 78 the configuration is wrong.
    """
    overrides: dict[str, object] = {**overrides_given(settings)}
    if log_level is not None:
        overrides["logging.level"] = log_level.value
    if log_format is not None:
        overrides["logging.format"] = log_format.value
    return work(config, overrides, burst=burst)
