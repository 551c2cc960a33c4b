"""What `qbridge run` does when it knows what was asked for: nothing here needs the parser of command lines."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from qbridge.cli.setting_up import read_config_text, read_handlers
from qbridge.config import parse_config
from qbridge.errors import ConfigError, QBridgeError, SourceMisconfigured, SourceUnavailable
from qbridge.lifeline import Lifeline
from qbridge.service import ExitCode, Service

__all__ = ["work"]

log = logging.getLogger(__name__)


def work(config: Path, overrides: Mapping[str, object], *, burst: bool = False) -> int:
    """Run the service until a signal, or in burst mode until its queues are empty; return its exit code.

    Args:
        config: The YAML file.
        overrides: Values that are laid over it, by dotted key.
        burst: End when no queue has a task that could start.

    Raises:
        ConfigError: Something in the file is wrong, or nothing can listen where `probes` says.
    """
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


def _work_for_supervisor(lifeline: Lifeline, config: Path, overrides: Mapping[str, object], burst: bool) -> int:
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
