"""`qbridge move`: messages from one queue to another."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from qbridge.bridge import QBridge
from qbridge.cli.ends import CommandFailed, warn
from qbridge.cli.flags import ConfigFile, DebugFlag, Settings, flag, overrides_given
from qbridge.cli.moving import Mover, Place
from qbridge.cli.operating import bounded, opened
from qbridge.cli.output import print_line
from qbridge.cli.setting_up import queue_given, read_config, why_unreachable
from qbridge.config import Config
from qbridge.service import ExitCode
from qbridge.source import QueueSource

__all__ = ["EXAMPLES", "move"]

EXAMPLES = (
    "qbridge move --from default --to orders",
    "qbridge move --from orders --to parked --limit 1000",
)

#: Added to a signal's number, as shells have it.
_ENDED_BY_SIGNAL = 128


def move(
    *,
    config: ConfigFile = Path("qbridge.yaml"),
    settings: Settings,
    origin: Annotated[str, flag("--from", metavar="QUEUE", help="Where messages are taken.", show_default=False)],
    target: Annotated[str, flag("--to", metavar="QUEUE", help="Where they go.", show_default=False)],
    limit: Annotated[
        int | None, flag("--limit", min=1, help="Move at most so many.", show_default="all that are ready")
    ] = None,
    debug: DebugFlag = False,
) -> int:
    """Move messages to another queue, whatever its backend.

    Moved is what is ready when the command begins, first come, first moved; what is delayed, in flight or dead stays.
    Bodies are moved byte for byte, whether or not anybody can read them; headers where both backends have them. With
    signing, messages whose signature holds are signed anew for the other queue, and no others. On the other queue a
    message is new: its attempts begin anew.

    A message is taken from the first queue when the second one has confirmed it, so none is lost whatever happens; if
    the command is killed, up to 100 are in both. After Ctrl-C or SIGTERM the batch on its way is finished and the rest
    put back, uncounted.

    If a message is over the other queue's max_message_size the command ends there, with exit code 2; if a queue can't
    be reached, with 3; if the other queue is full, with 1. How many were moved is printed in any case.
    """
    service_config = read_config(config, overrides_given(settings))
    for name in (origin, target):
        _, queue = queue_given(service_config, name)
        if reason := why_unreachable(queue):
            raise CommandFailed(f"queue {name!r}: {reason}", code=ExitCode.USAGE)
    if origin == target:
        raise typer.BadParameter(f"{target!r} is where the messages are", param_hint="'--to'")
    return asyncio.run(_move(service_config, origin, target, limit))


async def _move(config: Config, origin: str, target: str, limit: int | None) -> int:
    if config.queues[origin].codec != config.queues[target].codec:
        warn([f"queues {origin!r} and {target!r} have different codecs, and messages are moved as they are"])
    async with (
        QBridge.from_config(None, config) as bridge,
        opened(bridge, target) as to_source,
        opened(bridge, origin) as from_source,
    ):
        ready = (await bounded(from_source.stats(), origin)).ready
        count = ready if limit is None else min(ready, limit)
        with _progress(count) as show:
            mover = Mover(_place(config, origin, from_source), _place(config, target, to_source), show=show)
            with _signals(mover) as received:
                try:
                    await mover.move(count)
                finally:
                    _tell(mover, origin, target)
    return _ENDED_BY_SIGNAL + received[0] if received else ExitCode.OK


def _place(config: Config, queue: str, source: QueueSource) -> Place:
    settings = config.queues[queue]
    return Place(queue, source, config.create_codec(queue), settings.max_message_size)


def _tell(mover: Mover, origin: str, target: str) -> None:
    print_line(f"{_messages(mover.moved)} moved from {origin!r} to {target!r}")
    if mover.doubled:
        warn(
            [f"{_messages(mover.doubled)} may be in both queues: {origin!r} had given them to somebody else meanwhile"]
        )
    if mover.without_headers:
        warn([f"{_messages(mover.without_headers)} had headers, which queue {target!r} can't carry"])


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


@contextmanager
def _signals(mover: Mover) -> Iterator[list[int]]:
    """Stop the mover at SIGINT and SIGTERM; yields the list of those that came."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        mover.stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield received
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def _progress(count: int) -> Iterator[Callable[[int], object]]:
    """Draw a bar on a terminal's standard error; yields what to call with the number that was moved."""
    if not sys.stderr.isatty():
        yield lambda moved: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stderr=False, redirect_stdout=False) as bar:
        task = bar.add_task("move", total=count)
        yield lambda moved: bar.update(task, completed=moved)
