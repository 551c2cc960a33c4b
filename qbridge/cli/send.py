"""`qbridge send`: tasks from a command line, or from the lines of a file."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from qbridge.bridge import QBridge
from qbridge.cli.composing import Composer
from qbridge.cli.ends import CommandFailed, exit_code_of
from qbridge.cli.flags import ConfigFile, DebugFlag, Settings, duration_given, flag, overrides_given
from qbridge.cli.input_lines import InputLines, LineTooLongError
from qbridge.cli.output import print_line
from qbridge.cli.progress import Progress
from qbridge.cli.setting_up import queue_given, read_config, read_handlers, why_unreachable
from qbridge.config import Config
from qbridge.errors import (
    ConfigError,
    InvalidArgumentsError,
    MessageError,
    SourceError,
    SourceUnavailable,
    UnknownTaskError,
    nearest_name_hint,
)
from qbridge.message import TaskMessage
from qbridge.registry import Handler
from qbridge.service import ExitCode
from qbridge.units import format_duration

__all__ = ["EXAMPLES", "send"]

EXAMPLES = (
    """qbridge send hello '{"name": "world"}'""",
    """qbridge send resize '["cat.jpg", 640]' --queue pictures --delay 5s""",
    "qbridge send cleanup",
    "qbridge send hello --lines < names.jsonl > ids.txt",
    "qbridge send -- count -5",
)

#: JSON may take so many bytes for one of a message, as in \\u0041.
_LONGEST_ESCAPE = 6


def send(
    *,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The handler's name.", show_default=False)],
    value: Annotated[
        str | None, typer.Argument(metavar="JSON", help="The arguments of the task.", show_default=False)
    ] = None,
    config: ConfigFile = Path("qbridge.yaml"),
    settings: Settings,
    queue: Annotated[
        str | None,
        flag(
            "--queue",
            "-q",
            metavar="QUEUE",
            help="Where to; needed if there are several queues and none is called default.",
            show_default=False,
        ),
    ] = None,
    delay: Annotated[
        str, flag("--delay", metavar="DURATION", help="Time before it may start, such as 500ms, 5s, 2h.")
    ] = "0s",
    lines: Annotated[bool, flag("--lines", help="Read JSON from standard input, a line for each task.")] = False,
    no_check: Annotated[
        bool, flag("--no-check", help="Don't import the handlers: send what another service understands.")
    ] = False,
    debug: DebugFlag = False,
) -> None:
    """Send a task, and print its id.

    The id is printed when the broker has the task.

    JSON says with which arguments: an object has the named ones, an array the positional ones; any other value is the
    only argument, and without JSON there is none. On a queue with the raw codec JSON is the payload, whatever it is,
    and TASK the one task that the queue is for.

    Nothing is sent that no handler would take: an unknown task, or arguments that don't fit, end with exit code 2.

    With --lines tasks are sent as the lines come, up to 1000 at once; blank lines are skipped. The first bad line ends
    the command: which one it is and how many tasks were sent before it is told, and nothing after it is sent.
    """
    if lines and value is not None:
        raise typer.BadParameter("not together with --lines", param_hint="'JSON'")
    seconds = duration_given(delay, "--delay")
    service_config = read_config(config, overrides_given(settings))
    name, queue_config = queue_given(service_config, queue)
    if reason := why_unreachable(queue_config):
        raise CommandFailed(
            f"queue {name!r}: {reason}; send from a handler, or give the queue another backend", code=ExitCode.USAGE
        )
    if seconds and not queue_config.provider.capabilities.delay:
        raise CommandFailed(
            f"queue {name!r} can't delay messages: its backend {queue_config.backend} has no such ability",
            code=ExitCode.USAGE,
        )
    if seconds and (reason := service_config.why_too_long(name, seconds)):
        raise CommandFailed(
            f"queue {name!r} can't delay a message by {format_duration(seconds)}: {reason}", code=ExitCode.USAGE
        )
    composer = Composer(
        task,
        codec=service_config.create_codec(name),
        max_message_size=queue_config.max_message_size,
        handler=None if no_check else _handler(service_config, config, task),
    )
    if lines:
        longest = _LONGEST_ESCAPE * queue_config.max_message_size
        asyncio.run(_send_lines(service_config, name, composer, delay=seconds, longest=longest))
        return
    try:
        message = composer.message(None if value is None else value.encode(errors="surrogateescape"))
    except InvalidArgumentsError as exc:
        problems = [f"arguments of task {task!r} don't fit: {problem}" for problem in exc.problems]
        raise CommandFailed(*problems, code=ExitCode.USAGE) from exc
    asyncio.run(_send_one(service_config, name, message, seconds))


def _handler(config: Config, file: Path, task: str) -> Handler:
    try:
        with redirect_stdout(sys.stderr):  # standard output has ids only
            registry = read_handlers(config, file)
    except ConfigError as exc:
        raise ConfigError(*exc.problems, "to send without importing the handlers, add --no-check") from exc
    handler = registry.find(task)
    if handler is None:
        advice = (
            [] if nearest_name_hint(task, registry) else ["to send a task that another service runs, add --no-check"]
        )
        raise CommandFailed(str(UnknownTaskError(task, registry)), *advice, code=ExitCode.USAGE)
    return handler


async def _send_one(config: Config, queue: str, message: TaskMessage, delay: float) -> None:
    async with QBridge.from_config(None, config) as bridge:
        await _send_batch(bridge, queue, [message], delay=delay, sent=0)


async def _send_lines(config: Config, queue: str, composer: Composer, *, delay: float, longest: int) -> None:
    if sys.stdin is None:  # its number may be anything's by now
        raise CommandFailed("standard input is closed: --lines reads from there")
    descriptor = sys.stdin.fileno()
    lines = InputLines(descriptor, longest=longest)
    sent = 0
    async with QBridge.from_config(None, config) as bridge:
        with Progress(descriptor) as progress:
            async for messages, problem in _batches(lines, composer):
                if messages:
                    await _send_batch(bridge, queue, messages, delay=delay, sent=sent)
                    sent += len(messages)
                    progress.show(sent, lines.position)
                if problem:
                    raise CommandFailed(
                        f"standard input, {problem}",
                        f"{_tasks(sent)} sent before it, nothing after it",
                        code=ExitCode.USAGE,
                    )


async def _batches(lines: InputLines, composer: Composer) -> AsyncIterator[tuple[Sequence[TaskMessage], str]]:
    """Yield messages as their lines come, and what is wrong with the line after them; "" if nothing is."""
    number = 0
    while True:
        messages: list[TaskMessage] = []
        try:
            batch = await lines.batch()
            if not batch:
                return
            for line in batch:
                number += 1
                if line.strip():
                    messages.append(composer.message(line))
        except LineTooLongError as exc:
            yield messages, f"line {number + 1}: {exc}"
            return
        except MessageError as exc:
            yield messages, f"line {number}: {exc}"
            return
        yield messages, ""


async def _send_batch(bridge: QBridge, queue: str, messages: Sequence[TaskMessage], *, delay: float, sent: int) -> None:
    """Send messages and print their ids; `sent` is how many were sent before, for the error."""
    try:
        ids = await bridge.send_many(messages, queue=queue, delay=delay)
    except SourceError as exc:
        problems = [str(exc)]
        if isinstance(exc, SourceUnavailable) or len(messages) > 1:
            unknown = f"task {messages[0].id}" if len(messages) == 1 else f"the {len(messages)} tasks after them"
            before = f"{_tasks(sent)} sent, and " if sent or len(messages) > 1 else ""
            problems.append(f"{before}it is not known whether the broker has {unknown}")
        raise CommandFailed(*problems, code=exit_code_of(exc)) from exc
    print_line("\n".join(ids))
    sys.stdout.flush()


def _tasks(count: int) -> str:
    return "1 task was" if count == 1 else f"{count} tasks were"
