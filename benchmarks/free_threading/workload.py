"""One run of the free-threading benchmark, in the interpreter that it is started with; prints a line of JSON.

    python benchmarks/free_threading/workload.py no-op 1 40000

The tasks wait in a memory queue before the worker starts, and travel through the whole of it: claim, decode, hand-over,
check of the argument, run, hand-back, settle. The first tenth is not counted: it warms the interpreter up.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys
import threading
import time
from typing import Any

from qbridge import HandlerRegistry, QBridge, TaskMessage

BATCH = 1000
CONCURRENCY = 500
WARM_UP = 0.1

#: Seconds between two looks at how many tasks have ended: under a hundredth of a run.
LOOK = 0.002

#: Turns of the loop in `compute`: about 75 µs on CPython 3.11.
TURNS = 1500

registry = HandlerRegistry()


@registry.task(name="no-op")
async def no_op(number: int) -> None:
    """Do nothing with an argument that pydantic has checked."""


@registry.task(name="cpu")
async def compute(number: int) -> None:
    """Work in pure Python on values that no other thread sees."""
    total = number
    for turn in range(TURNS):
        total = (total * 31 + turn) & 0xFFFFFF


def loop_clocks() -> list[int]:
    """Return the CPU clocks of the loop threads."""
    return [
        time.pthread_getcpuclockid(thread.ident)
        for thread in threading.enumerate()
        if thread.name.startswith("default-") and thread.ident is not None
    ]


async def run(handler: str, threads: int, tasks: int) -> dict[str, Any]:
    """Run `tasks` tasks on `threads` loop threads; return what was measured."""
    loops = {"default": {"threads": threads, "concurrency": CONCURRENCY, "implementation": "asyncio"}}
    async with QBridge(registry, queues={"default": {"backend": "memory"}}, loops=loops) as bridge:
        for first in range(0, tasks, BATCH):
            numbers = range(first, min(first + BATCH, tasks))
            await bridge.send_many(TaskMessage(task=handler, args=[number]) for number in numbers)
        running = asyncio.create_task(bridge.run())
        while bridge.tasks_ended < tasks * WARM_UP:  # noqa: ASYNC110  # an event would cost each task something
            await asyncio.sleep(LOOK)
        clocks = loop_clocks()
        before, began = bridge.tasks_ended, time.perf_counter()
        main_cpu, loop_cpu = time.thread_time(), [time.clock_gettime(clock) for clock in clocks]
        while bridge.tasks_ended < tasks:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        seconds = time.perf_counter() - began
        main_cpu = time.thread_time() - main_cpu
        loop_cpu = [time.clock_gettime(clock) - start for clock, start in zip(clocks, loop_cpu, strict=True)]
        counted = tasks - before
        bridge.stop()
        await running
    return {
        "handler": handler,
        "threads": threads,
        "per_second": counted / seconds,
        "main_us": main_cpu / counted * 1e6,
        "loops_us": sum(loop_cpu) / counted * 1e6,
        "busiest": max(main_cpu, *loop_cpu) / seconds,
    }


def main() -> None:
    """Run what the arguments say, and tell with it which interpreter it was."""
    handler, threads, tasks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # Of a service; without a global lock it means nothing.
    sys.setswitchinterval(0.0005)
    measured = asyncio.run(run(handler, threads, tasks))
    # Asked for at the end: an extension module that needs the lock switches it on when it is imported.
    is_locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(
        json.dumps(
            {
                "python": ".".join(map(str, sys.version_info[:3])),
                "gil": is_locked,
                "pydantic": importlib.metadata.version("pydantic"),
                **measured,
            }
        )
    )


if __name__ == "__main__":
    main()
