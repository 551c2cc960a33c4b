"""The producer of the soak: sends a mix of numbered tasks at a steady rate until it is told to stop.

    python benchmarks/soak_producer.py '{"backend": "redis", …}' RATE

In the working directory `attempted` gets a line with each number before it is sent, as the last of a batch, and
`confirmed` a line `<first> <last>` for each batch that the broker has. It pauses while too much waits for the workers.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from soak_tasks import END

from qbridge import QBridge, SourceError, TaskMessage

#: Seconds between two batches.
PAUSE = 0.25

#: Tasks that may wait for the workers.
MOST_BEHIND = 4000

#: What is sent, and how many of a hundred tasks.
MIX = {"nothing": 50, "wait": 25, "fail": 3, "plain": 10, "weigh": 5, "later": 7}

PAYLOAD = "x" * (10 * 1024)


def tasks(first: int, count: int, delay: float) -> Iterator[TaskMessage]:
    """Yield the tasks of one batch; with a delay, those that are sent with it."""
    for number in range(first, first + count):
        kind = "later" if delay else _kind()
        arguments: dict[str, list[Any]] = {
            "wait": [random.uniform(0.02, 0.3)],
            "weigh": [PAYLOAD],
            "later": [time.time() + delay],
        }
        yield TaskMessage(task=kind, args=[number, *arguments.get(kind, [])])


def _count_ends() -> int:
    ends = Path("ends")
    return ends.stat().st_size // END.size if ends.exists() else 0


def _kind() -> str:
    kinds = [kind for kind in MIX if kind != "later"]
    return random.choices(kinds, [MIX[kind] for kind in kinds])[0]


async def produce(queue: dict[str, Any], rate: float, attempted: TextIO, confirmed: TextIO) -> None:
    """Send until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    size = max(1, round(rate * PAUSE))
    delayed = max(1, size * MIX["later"] // 100)
    number = done = 0
    async with QBridge(queues={"default": queue}) as bridge:
        while not stopping.is_set():
            began = time.monotonic()
            behind = done - _count_ends()
            if behind < MOST_BEHIND:
                for count, delay in ((size - delayed, 0.0), (delayed, random.uniform(0.5, 8.0))):
                    first, number = number, number + count
                    print(number - 1, file=attempted, flush=True)
                    try:
                        await bridge.send_many(tasks(first, count, delay), delay=delay)
                    except SourceError:  # nobody knows which of them the broker has
                        continue
                    done += count
                    print(first, number - 1, file=confirmed, flush=True)
            rest = PAUSE - (time.monotonic() - began)
            try:
                async with asyncio.timeout(max(0.0, rest)):
                    await stopping.wait()
            except TimeoutError:
                pass


if __name__ == "__main__":
    with Path("attempted").open("a") as before, Path("confirmed").open("a") as after:
        asyncio.run(produce(json.loads(sys.argv[1]), float(sys.argv[2]), before, after))
