"""A program that sends to a queue in memory in each way there is, for `costs.py` to look at.

    python -m tests.performance.sends

It prints how many functions were called for all messages of each way, as JSON.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from qbridge import QBridge, TaskMessage
from tests.performance.drained_queue import TASKS, WARM_UP, Calls

__all__ = ["WAYS"]

Way = Callable[[QBridge, range], Awaitable[object]]


async def send(bridge: QBridge, numbers: range) -> None:
    """Send all at once, each by itself."""
    await asyncio.gather(*(bridge.send("nothing", number) for number in numbers))


async def send_many(bridge: QBridge, numbers: range) -> None:
    """Send messages that are made one by one."""
    await bridge.send_many(TaskMessage(task="nothing", args=[number]) for number in numbers)


async def send_each(bridge: QBridge, numbers: range) -> None:
    """Send one task for many arguments."""
    await bridge.send_each("nothing", [(number,) for number in numbers])


async def send_from_afar(bridge: QBridge, numbers: range) -> None:
    """Send all at once from another loop, each by itself."""
    with ThreadPoolExecutor(1) as fresh:  # the calls of a thread that was there before are not counted
        await asyncio.get_running_loop().run_in_executor(fresh, lambda: asyncio.run(send(bridge, numbers)))


WAYS: dict[str, Way] = {way.__name__: way for way in (send, send_many, send_each, send_from_afar)}


async def count(way: Way) -> int:
    """Return how many functions are called while so many tasks are sent."""
    async with QBridge() as bridge:
        await way(bridge, range(WARM_UP))
        calls = Calls()
        calls.begin()
        await way(bridge, range(TASKS))
        calls.end()
    return calls.total().total()


if __name__ == "__main__":
    print(json.dumps({name: asyncio.run(count(way)) for name, way in WAYS.items()}))
