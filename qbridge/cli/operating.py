"""An operator's visit to a queue: opened, asked, closed, and never waited for without a limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from qbridge.bridge import QBridge
from qbridge.cli.ends import CommandFailed
from qbridge.cli.setting_up import queue_given, why_unreachable
from qbridge.config import Config
from qbridge.errors import SourceUnavailable
from qbridge.service import ExitCode
from qbridge.source import QueueSource

__all__ = ["ANSWER_TIMEOUT", "BULK_TIMEOUT", "bounded", "opened", "opened_for_dead_letters"]

#: Seconds that a broker may take to be opened, or to answer a question.
ANSWER_TIMEOUT = 15.0

#: Seconds that a broker may take to move or delete all dead letters of a queue.
BULK_TIMEOUT = 600.0

T = TypeVar("T")


async def bounded(answer: Awaitable[T], queue: str, timeout: float | None = None) -> T:
    """Return what a broker answers.

    Raises:
        SourceUnavailable: It did not within `timeout` seconds; None stands for `ANSWER_TIMEOUT`.
    """
    if timeout is None:
        timeout = ANSWER_TIMEOUT
    try:
        async with asyncio.timeout(timeout):
            return await answer
    except TimeoutError:
        raise SourceUnavailable(f"queue {queue!r} did not answer within {timeout:g} s") from None


@asynccontextmanager
async def opened(bridge: QBridge, queue: str) -> AsyncIterator[QueueSource]:
    """Open a queue's source, and close it at the end.

    Raises:
        SourceUnavailable: The broker can't be reached, or does not answer.
        SourceMisconfigured: The broker refuses what was configured.
    """
    async with AsyncExitStack() as stack:
        yield await bounded(stack.enter_async_context(bridge.source(queue)), queue)


@asynccontextmanager
async def opened_for_dead_letters(config: Config, queue: str) -> AsyncIterator[QueueSource]:
    """Open the source of a queue that keeps dead letters.

    Raises:
        CommandFailed: Its backend keeps none, or no other process can reach it.
        UnknownQueueError: No queue has that name.
        SourceUnavailable: The broker can't be reached, or does not answer.
        SourceMisconfigured: The broker refuses what was configured.
    """
    _, settings = queue_given(config, queue)
    if reason := why_unreachable(settings):
        raise CommandFailed(f"queue {queue!r}: {reason}", code=ExitCode.USAGE)
    without = CommandFailed(f"queue {queue!r} keeps no dead letters: its backend {settings.backend} can't")
    if not settings.provider.capabilities.dead_letters:
        raise without
    async with QBridge.from_config(None, config) as bridge, opened(bridge, queue) as source:
        if not source.capabilities.dead_letters:
            raise without
        yield source
