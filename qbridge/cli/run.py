"""`qbridge run`: the worker service."""

from __future__ import annotations

import io
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from qbridge.cli.flags import ConfigFile, DebugFlag, Settings, flag, overrides_given
from qbridge.cli.setting_up import read_config_text, read_handlers
from qbridge.config import parse_config
from qbridge.errors import ConfigError, QBridgeError, SourceMisconfigured, SourceUnavailable
from qbridge.lifeline import Lifeline
from qbridge.service import ExitCode, Service

__all__ = ["EXAMPLES", "run"]

log = logging.getLogger(__name__)

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
    lifeline = Lifeline.from_environment()
    if lifeline is not None:
        return _work_for_supervisor(lifeline, config, overrides, burst)
    text = read_config_text(config)
    service_config = parse_config(text, file=str(config), overrides=overrides)
    if service_config.has_several_processes:
        from qbridge.supervisor import Supervisor, queues_of_one_process

        if problems := [f"{config}: {problem}" for problem in queues_of_one_process(service_config)]:
            raise ConfigError(*problems)
        return Supervisor(service_config, text, command=_own_command(), burst=burst).run()
    return _work(Service(service_config, read_handlers(service_config, config), burst=burst))


def _work_for_supervisor(lifeline: Lifeline, config: Path, overrides: dict[str, object], burst: bool) -> int:
    text = lifeline.configuration()
    if text is None:  # the supervisor has gone already
        return ExitCode.FAILURE
    try:
        service_config = parse_config(text, file=str(config), overrides=overrides)
        registry = read_handlers(service_config, config)
    except ConfigError as exc:
        lifeline.report(exc.problems)
        return ExitCode.CONFIG
    return _work(Service(service_config, registry, burst=burst, lifeline=lifeline))


def _work(service: Service) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Into a pipe or a file too, what a handler prints is there when it prints it, and not lost in a crash.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        return service.run()
    except SourceMisconfigured:
        return ExitCode.CONFIG  # the service has logged it
    except SourceUnavailable:
        return ExitCode.UNREACHABLE  # this one too
    except QBridgeError:
        raise
    except Exception:
        # A service that crashed can't be asked to crash again with --debug.
        log.exception("the worker failed")
        return ExitCode.FAILURE


def _own_command() -> list[str]:
    """Return the command line of this process, interpreter and its options included: what its workers run too."""
    return [sys.executable or sys.orig_argv[0], *sys.orig_argv[1:]]
