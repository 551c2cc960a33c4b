"""A producer in a process of its own: sends numbered tasks, and writes down each id when the broker has its message.

    python -m tests.support.numbered_producer '{"backend": "sqlite", …}' COUNT

It sends `record(number)` and stays a little ahead of the handlers, as their ledger in the working directory tells, so
that tasks flow all the while. `confirmed` there gets a line `<number> <message id>` for each message.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from qbridge import QBridge, TaskMessage
from tests.support.run_ledger import Ledger

__all__ = ["confirmed_ids", "producing"]

ROOT = Path(__file__).parents[2]

#: Messages of one call.
BATCH = 100

#: Messages that may wait for a handler.
AHEAD = 2000


@contextmanager
def producing(folder: Path, queue: Mapping[str, Any], count: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the producer in a folder; it is killed at the end if it still runs."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "tests.support.numbered_producer", json.dumps(dict(queue)), str(count)]
    with subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": path}) as process:
        try:
            yield process
        finally:
            process.kill()


def confirmed_ids(folder: Path) -> list[str]:
    """Return the ids of the messages that a broker has confirmed, in the order of their numbers."""
    lines = [line.split() for line in (folder / "confirmed").read_text().splitlines()]
    assert list(range(len(lines))) == [int(number) for number, _ in lines], "the producer skipped a number"
    return [message_id for _, message_id in lines]


async def _produce(queue: Mapping[str, Any], count: int, confirmed: TextIO) -> None:
    ledger = Ledger(Path())
    async with QBridge(queues={"default": queue}) as bridge:
        for first in range(0, count, BATCH):
            while first - ledger.read().count["end"] > AHEAD:  # noqa: ASYNC110  # a file has no event
                await asyncio.sleep(0.01)
            numbers = range(first, min(first + BATCH, count))
            ids = await bridge.send_many(TaskMessage(task="record", args=[number]) for number in numbers)
            confirmed.writelines(f"{number} {each}\n" for number, each in zip(numbers, ids, strict=True))
            confirmed.flush()


if __name__ == "__main__":
    with Path("confirmed").open("w") as file:
        asyncio.run(_produce(json.loads(sys.argv[1]), int(sys.argv[2]), file))
