"""The program that one writes first: `RPOP` one task at a time, and hand each to a loop in another thread.

What is popped is lost if the process dies, nothing is acknowledged, and nothing bounds how many tasks run at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time

import uvloop
from redis import Redis

from benchmarks.harness.limits import Limit

LIMITS = (
    Limit(
        key="redis-naive",
        broker="redis",
        title="the naive program: `RPOP` and `run_coroutine_threadsafe` for each task, at most once",
    ),
)

TASKS = 20_000
PUSHED = 1_000


class Counter:
    """Counts what ran on the loop, and tells when all of it has."""

    def __init__(self) -> None:
        self.ran = 0
        self.all_ran = threading.Event()

    async def noop(self, body: bytes) -> None:
        """Do nothing but count."""
        json.loads(body)
        self.ran += 1
        if self.ran == TASKS:
            self.all_ran.set()


def main() -> None:
    """Push all tasks, then run them."""
    redis = Redis.from_url(os.environ["BENCH_URL"])
    for first in range(0, TASKS, PUSHED):
        redis.lpush("queue", *(json.dumps({"task": "noop", "args": [first + number]}) for number in range(PUSHED)))
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    counter = Counter()
    began = time.perf_counter()
    while (body := redis.rpop("queue")) is not None:
        asyncio.run_coroutine_threadsafe(counter.noop(body), loop)
    if not counter.all_ran.wait(30):
        sys.exit(f"{counter.ran} of {TASKS} tasks ran")
    seconds = time.perf_counter() - began
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    print(json.dumps({"tasks": TASKS, "seconds": seconds}))


if __name__ == "__main__":
    main()
