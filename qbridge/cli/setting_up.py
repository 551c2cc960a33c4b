"""From the flags of a command to its configuration, its handlers and its queue."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qbridge.cli.ends import CommandFailed
from qbridge.config import Config, QueueConfig, parse_config, read_config_file
from qbridge.errors import ConfigError, UnknownQueueError
from qbridge.loading import load_handlers
from qbridge.registry import HandlerRegistry
from qbridge.service import ExitCode

__all__ = ["queue_given", "read_config", "read_config_text", "read_handlers", "why_unreachable"]


def read_config(file: Path, overrides: Mapping[str, object]) -> Config:
    """Return the configuration in a YAML file, with the overrides laid over it.

    Raises:
        ConfigError: It can't be read, or something in it is wrong.
    """
    return parse_config(read_config_text(file), file=str(file), overrides=overrides)


def read_config_text(file: Path) -> bytes:
    """Return the text of a YAML file, unchecked.

    Raises:
        ConfigError: It can't be read.
    """
    try:
        return read_config_file(file)
    except ConfigError:
        if file.exists():
            raise
        raise ConfigError(
            f"{file}: there is no such file; name another with --config, or write one with 'qbridge init'"
        ) from None


def read_handlers(config: Config, file: Path) -> HandlerRegistry:
    """Import the handlers that a YAML file names; modules beside the file are found first.

    Raises:
        ConfigError: One can't be imported; a line for each problem, which begins with the file's name.
    """
    try:
        return load_handlers(config.handlers, folder=file.parent)
    except ConfigError as exc:
        raise ConfigError(*(f"{file}: {problem}" for problem in exc.problems)) from exc


def queue_given(config: Config, queue: str | None) -> tuple[str, QueueConfig]:
    """Return the name and the settings of the queue that a command is for.

    Args:
        config: The settings.
        queue: The name that was given; None takes the only queue there is, or the one called `default`.

    Raises:
        UnknownQueueError: No queue has that name.
        CommandFailed: None was given, and there are several and none called `default`.
    """
    known = config.queues
    if queue is None:
        queue = next(iter(known)) if len(known) == 1 else "default"
        if queue not in known:
            raise CommandFailed(f"choose one with --queue (known: {', '.join(known)})", code=ExitCode.USAGE)
    if queue not in known:
        raise UnknownQueueError(queue, known)
    return queue, known[queue]


def why_unreachable(queue: QueueConfig) -> str:
    """Return why no other process than the worker can reach a queue; "" if one can."""
    if queue.provider.capabilities.shared:
        return ""
    return f"backend {queue.backend} keeps its messages in the worker's process, where no other command can reach them"
