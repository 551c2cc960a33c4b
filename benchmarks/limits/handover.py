"""What it costs to hand tasks to a loop in another thread and their ends back, without a queue and a broker.

Both loops are uvloop's. Each task is a coroutine of its own on the other loop, as a handler is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import deque

import uvloop

from benchmarks.harness.limits import Limit

LIMITS = (
    Limit(
        key="handover-batched-100",
        broker="memory",
        title="100 tasks handed to a loop thread in one call and their ends handed back in one",
    ),
    Limit(
        key="handover-singly",
        broker="memory",
        title="`run_coroutine_threadsafe` for each task, 100 at once",
    ),
)

TASKS = 200_000
WINDOW = 100


async def noop(number: int) -> int:
    """Do nothing."""
    return number


class Batched:
    """Two boxes between two loops: whoever puts something into an empty one wakes the other side.

    Args:
        here: The loop that hands over.
        there: The loop that runs tasks.
    """

    def __init__(self, here: asyncio.AbstractEventLoop, there: asyncio.AbstractEventLoop) -> None:
        self._here = here
        self._there = there
        self._inbox: deque[int] = deque()
        self._outbox: deque[int] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next = 0
        self._ended = 0
        self.all_ended = asyncio.Event()

    def hand_over(self, count: int) -> None:
        """Hand over the next tasks; on the loop that hands over."""
        count = min(count, TASKS - self._next)
        if count:
            was_empty = not self._inbox
            self._inbox.extend(range(self._next, self._next + count))
            self._next += count
            if was_empty:
                self._there.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        inbox = self._inbox
        while inbox:
            task = self._there.create_task(self._run(inbox.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, number: int) -> None:
        ended = await noop(number)
        was_empty = not self._outbox
        self._outbox.append(ended)
        if was_empty:
            self._here.call_soon_threadsafe(self._take_back)

    def _take_back(self) -> None:
        count = 0
        while self._outbox:
            self._outbox.popleft()
            count += 1
        self._ended += count
        if self._ended == TASKS:
            self.all_ended.set()
        else:
            self.hand_over(count)


async def batched(there: asyncio.AbstractEventLoop) -> None:
    """Run all tasks, handed over in batches."""
    boxes = Batched(asyncio.get_running_loop(), there)
    boxes.hand_over(WINDOW)
    await asyncio.wait_for(boxes.all_ended.wait(), 30)


async def singly(there: asyncio.AbstractEventLoop, tasks: int) -> None:
    """Run tasks, each handed over by itself."""
    for first in range(0, tasks, WINDOW):
        numbers = range(first, first + WINDOW)
        await asyncio.gather(
            *(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(noop(number), there)) for number in numbers)
        )


async def main(key: str) -> None:
    """Measure one limit."""
    there = uvloop.new_event_loop()
    thread = threading.Thread(target=there.run_forever)
    thread.start()
    sys.setswitchinterval(0.0005)  # as a worker of qbridge does
    try:
        tasks = TASKS if key == "handover-batched-100" else TASKS // 10
        began = time.perf_counter()
        if key == "handover-batched-100":
            await batched(there)
        else:
            await singly(there, tasks)
        seconds = time.perf_counter() - began
    finally:
        there.call_soon_threadsafe(there.stop)
        thread.join()
    print(json.dumps({"tasks": tasks, "seconds": seconds}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
