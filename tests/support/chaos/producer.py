"""A producer in a process of its own: sends tasks of all kinds as long as its campaign lasts, and keeps a book of it.

    python -m tests.support.chaos.producer '{"backend": "sqlite", …}' AHEAD

It stays a little ahead of the handlers, as their ledger in the working directory tells, sends nothing while there is a
file `hold`, and ends when there is a file `stop`. When the outcome of a send is unknown it doesn't repeat it: such
messages are *attempted*, not *accepted*.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qbridge import QBridge, SourceError, TaskMessage
from tests.support.chaos import failpoints
from tests.support.chaos.brokers import LEASE
from tests.support.chaos.sendings import SendingWriter
from tests.support.run_ledger import Ledger

__all__ = ["ROOT", "producing", "python_path"]

ROOT = Path(__file__).parents[3]

#: Messages of one call.
BATCH = 10

#: Seconds between looks at what the handlers have done, and after a send that failed.
PAUSE = 0.02

#: Seconds that delayed messages are sent with.
DELAYS = (0.2, 0.7, 1.3)


def python_path() -> dict[str, str]:
    """Return the environment variable with which a process in any folder finds the tests' modules."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}


@contextmanager
def producing(folder: Path, queue: Mapping[str, Any], ahead: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the producer in a folder; it is killed at the end if it still runs."""
    command = [sys.executable, "-m", "tests.support.chaos.producer", json.dumps(dict(queue)), str(ahead)]
    environment = {**os.environ, **python_path(), failpoints.FOLDER: str(folder)}
    with subprocess.Popen(command, cwd=folder, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def _task() -> tuple[TaskMessage, float]:
    """Return a message, and the delay to send it with."""
    draw = random.random()
    if draw < 0.006:  # longer than a lease: it must be renewed
        return TaskMessage(task="work_long", args=[1.3 * LEASE]), 0.0
    if draw < 0.08:
        return TaskMessage(task="work_long", args=[random.choice((0.3, 0.6))]), 0.0
    if draw < 0.18:
        return TaskMessage(task="fail_at_first", args=[random.choice((1, 2)), random.choice((0.2, 0.5))]), 0.0
    if draw < 0.28:
        return TaskMessage(task="work"), random.choice(DELAYS)
    if draw < 0.38:
        return TaskMessage(task="work_in_thread"), 0.0
    return TaskMessage(task="work"), 0.0


async def _produce(queue: Mapping[str, Any], ahead: int) -> None:
    ledger, book = Ledger(Path()), SendingWriter(Path())
    waiting: set[str] = set()
    seen, stop, hold = 0, Path("stop"), Path("hold")
    async with QBridge(queues={"default": queue}) as bridge:
        while not stop.exists():  # noqa: ASYNC240  # a look at a local folder
            entries = ledger.read().entries
            waiting.difference_update(entry.message_id for entry in entries[seen:] if entry.kind == "end")
            seen = len(entries)
            if len(waiting) >= ahead or hold.exists():  # noqa: ASYNC240  # a look at a local folder
                await asyncio.sleep(PAUSE)
                continue
            by_delay: dict[float, list[TaskMessage]] = {}
            for _ in range(BATCH):
                message, delay = _task()
                by_delay.setdefault(delay, []).append(message)
            for delay, messages in by_delay.items():
                ids = [message.id for message in messages]
                book.attempt(ids, delay=delay)
                try:
                    await bridge.send_many(messages, delay=delay)
                except SourceError:
                    await asyncio.sleep(PAUSE)
                else:
                    book.accept(ids)
                    waiting.update(ids)
    book.close()


if __name__ == "__main__":
    importlib.import_module("tests.support.chaos.clock")  # which campaigns may set
    asyncio.run(_produce(json.loads(sys.argv[1]), int(sys.argv[2])))
