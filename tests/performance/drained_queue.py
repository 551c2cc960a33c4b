"""A program that drains a memory queue through the whole dispatcher, for `costs.py` to look at.

    python -m tests.performance.drained_queue calls          prints how often each function was called, as JSON
    python -m tests.performance.drained_queue blocks         prints how many blocks of memory stay, as JSON
    python -m tests.performance.drained_queue instructions   calls getsid before and after what is to be counted

A first queue warms the interpreter up. The second one is measured: its tasks are there before the worker starts, and
the worker ends by itself when they are done. The loops are asyncio's, which is there everywhere.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

from qbridge import HandlerRegistry, QBridge, TaskMessage

#: Tasks of the queue that is measured.
TASKS = 2000

#: Tasks that warm up.
WARM_UP = 300

#: Turns of the pure Python workload that instructions are compared with.
TURNS = 20_000

registry = HandlerRegistry()


@registry.task
async def nothing(number: int) -> None:
    """Do nothing with an argument that was checked."""


async def drain(tasks: int, before: Callable[[], object], after: Callable[[], object]) -> None:
    """Send `tasks` tasks, run a worker until they are done, and call the two around that."""
    loops = {"default": {"threads": 1, "concurrency": 100, "implementation": "asyncio"}}
    async with QBridge(registry, queues={"default": {"backend": "memory"}}, loops=loops) as bridge:
        # The same ids in each queue: pydantic keeps some thousands of the strings that it has read.
        await bridge.send_many(TaskMessage(id=f"{n:032x}", task="nothing", args=[n]) for n in range(tasks))
        before()
        await bridge.run(burst=True)
        after()
        done = bridge.tasks_ended
    if done != tasks:
        raise RuntimeError(f"{done} of {tasks} tasks have ended")


class Node:
    """What the reference makes, links and forgets."""

    __slots__ = ("number", "older")

    def __init__(self, number: int, older: Node | None) -> None:
        self.number = number
        self.older = older

    def depth(self) -> int:
        """Return 1, or 2 if there is an older one."""
        return 1 if self.older is None else 2


def reference(turns: int) -> int:
    """Do what Python programs do: call, make objects, look up attributes and keys."""
    table: dict[int, Node] = {}
    recent: list[int] = []
    total = 0
    for turn in range(turns):
        node = table[turn & 63] = Node(turn, None if turn & 1 else table.get(turn & 31))
        recent.append(node.number + node.depth())
        node.older = None
        if len(recent) > 100:
            total += sum(recent)
            recent.clear()
    return total


class Calls:
    """Counts the calls of Python and C functions in this thread and in those that begin while it counts."""

    def __init__(self) -> None:
        self._counts: list[Counter[str]] = []
        self._of_thread = threading.local()

    def begin(self) -> None:
        """Count from here on."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def end(self) -> None:
        """Count no more."""
        sys.setprofile(None)
        threading.setprofile(None)

    def total(self) -> Counter[str]:
        """Return how often each function was called, in all threads."""
        return sum(self._counts, Counter())

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":  # a coroutine that goes on counts too
            name = f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"
        elif event == "c_call":
            name = getattr(argument, "__qualname__", type(argument).__name__)
        else:
            return
        counts = getattr(self._of_thread, "counts", None)
        if counts is None:
            counts = self._of_thread.counts = Counter()
            self._counts.append(counts)
        counts[name] += 1


def allocated() -> int:
    """Return how many blocks of memory Python has, less its garbage."""
    gc.collect()
    return sys.getallocatedblocks()


def nothing_more() -> None:
    """Stand where nothing is to be done before or after."""


def mark() -> None:
    """Call what nothing else calls, for valgrind to see."""
    os.getsid(0)


def main() -> None:
    """Drain, and let it be counted."""
    asyncio.run(drain(WARM_UP, nothing_more, nothing_more))
    if sys.argv[1] == "calls":
        calls = Calls()
        asyncio.run(drain(TASKS, calls.begin, calls.end))
        print(json.dumps(calls.total()))
        return
    if sys.argv[1] == "blocks":
        asyncio.run(drain(TASKS, nothing_more, nothing_more))
        before = allocated()
        asyncio.run(drain(TASKS, nothing_more, nothing_more))
        print(json.dumps(allocated() - before))
        return
    reference(TURNS // 10)
    mark()
    reference(TURNS)
    mark()
    asyncio.run(drain(TASKS, mark, mark))


if __name__ == "__main__":
    main()
