"""`qbridge check`: all that can be known of a service without its brokers."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qbridge.cli.ends import warn
from qbridge.cli.flags import ConfigFile, DebugFlag, Format, FormatFlag, Settings, overrides_given
from qbridge.cli.output import Column, print_json, print_line, print_table
from qbridge.cli.setting_up import read_config, read_handlers
from qbridge.config import Config, RawCodecConfig
from qbridge.discovery import missing_needs
from qbridge.errors import ConfigError, nearest_name_hint
from qbridge.registry import Handler, HandlerRegistry
from qbridge.retry import RetryPolicy
from qbridge.supervisor import queues_of_one_process
from qbridge.units import format_duration

__all__ = ["EXAMPLES", "check"]

EXAMPLES = (
    "qbridge check",
    "qbridge check -c shop/qbridge.yaml --format json",
)


def check(
    *,
    config: ConfigFile = Path("qbridge.yaml"),
    settings: Settings,
    format: FormatFlag = Format.TABLE,
    debug: DebugFlag = False,
) -> None:
    """Check the configuration and the handlers, and list them.

    All that can be known without a broker is checked, and no broker is asked. All problems are told at once, a line
    for each on standard error, and the exit code is then 78.

    JSON: an object with queues (queue, backend, codec, task, loops) and handlers (task, signature, timeout in seconds
    or null, retry with max_attempts, backoff, base, cap and jitter).
    """
    service_config = read_config(config, overrides_given(settings))
    problems: list[str] = []
    registry: HandlerRegistry | None = None
    try:
        with redirect_stdout(sys.stderr):  # what modules print when they are imported is none of the list
            registry = read_handlers(service_config, config)
    except ConfigError as exc:
        problems.extend(exc.problems)
    problems.extend(f"{config}: {problem}" for problem in _problems(service_config, registry))
    if problems or registry is None:
        raise ConfigError(*problems)
    if not len(registry):
        warn([f"{config}: there is no handler: every message would become a dead letter unknown_task"])
    warn(f"{config}: {gap}" for gap in _gaps_in_signing(service_config))
    if format is Format.JSON:
        print_json({"queues": list(_queues(service_config)), "handlers": list(_handlers(service_config, registry))})
        return
    print_table(
        [Column("queue"), Column("backend"), Column("codec"), Column("loops")],
        (
            [
                row["queue"],
                row["backend"],
                f"{row['codec']} for {row['task']}" if row["task"] else row["codec"],
                row["loops"],
            ]
            for row in _queues(service_config)
        ),
    )
    print_line("")
    print_table(
        [Column("task"), Column("arguments"), Column("timeout"), Column("retry")],
        (
            [
                name,
                _signature_text(handler),
                "-" if handler.timeout is None else format_duration(handler.timeout),
                _retry_text(handler.retry or service_config.retry),
            ]
            for name, handler in registry.handlers.items()
        ),
    )


def _problems(config: Config, registry: HandlerRegistry | None) -> Iterator[str]:
    """Yield what would stop the service, or every message of a queue; handlers are None if they can't be imported."""
    for name, queue in config.queues.items():
        for module, advice in missing_needs(queue.provider).items():
            yield f"queues.{name}.backend is {queue.backend!r}, which needs module {module!r}: {advice}"
        if isinstance(queue.codec, RawCodecConfig) and registry is not None:
            task = queue.codec.task
            handler = registry.find(task)
            if handler is None:
                known = ", ".join(registry) or "none"
                yield (
                    f"queues.{name}.codec.task is {task!r}, which no handler is registered for "
                    f"(known: {known}){nearest_name_hint(task, registry)}"
                )
            elif not _takes_one(handler):
                yield (
                    f"queues.{name}.codec.task is {task!r}, whose handler can't be called with a payload alone: "
                    f"it takes {_signature_text(handler)}"
                )
    yield from queues_of_one_process(config)
    if find_spec("uvloop") is None:
        for name, loops in config.loops.items():
            if loops.implementation == "uvloop":
                yield (
                    f"loops.{name}.implementation is 'uvloop', which is not installed: "
                    'pip install "qbridge[uvloop]", or write auto'
                )


def _gaps_in_signing(config: Config) -> Iterator[str]:
    """Yield the ways by which messages without a signature are run, though the service has signing."""
    if config.signing is None:
        return
    if config.signing.accept_unsigned:
        yield "signing.accept_unsigned is true: messages without a signature are run"
    for name, queue in config.queues.items():
        if isinstance(queue.codec, RawCodecConfig):
            yield (
                f"queues.{name} has the raw codec, whose messages have no signature: whoever can write to it can run "
                f"task {queue.codec.task!r}"
            )


def _takes_one(handler: Handler) -> bool:
    try:
        handler.signature.bind(b"")
    except TypeError:
        return False
    return True


def _queues(config: Config) -> Iterator[dict[str, Any]]:
    for name, queue in config.queues.items():
        yield {
            "queue": name,
            "backend": queue.backend,
            "codec": queue.codec.type,
            "task": queue.codec.task if isinstance(queue.codec, RawCodecConfig) else None,
            "loops": queue.loops,
        }


def _handlers(config: Config, registry: HandlerRegistry) -> Iterator[dict[str, Any]]:
    for name, handler in registry.handlers.items():
        policy = handler.retry or config.retry
        yield {
            "task": name,
            "signature": _signature_text(handler),
            "timeout": handler.timeout,
            "retry": policy.model_dump(mode="json"),
        }


def _retry_text(policy: RetryPolicy) -> str:
    if policy.max_attempts == 1:
        return "1 attempt"
    pauses = format_duration(policy.base)
    if policy.backoff != "constant":
        pauses += f" to {format_duration(policy.cap)}"
    return f"{policy.max_attempts} attempts, {policy.backoff} {pauses}"


class _AsWritten:
    """An annotation that is shown as it stands in the source."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature_text(handler: Handler) -> str:
    """Return what a message must bring, with annotations as they were written where that is known."""
    written = inspect.signature(handler.function).parameters
    parameters = []
    for name, parameter in handler.signature.parameters.items():
        annotation: Any = written[name].annotation
        if isinstance(annotation, str):
            annotation = _AsWritten(annotation)
        elif typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        parameters.append(parameter.replace(annotation=annotation))
    return str(handler.signature.replace(parameters=parameters))
