"""The memory backend: one process that sends all tasks and then runs them through the whole dispatcher."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import uvloop

from benchmarks.harness.sending import arguments_for
from benchmarks.systems.qbridge import configuration
from benchmarks.systems.qbridge.app import registry
from qbridge import QBridge, TaskMessage, build_config

BATCH = 1_000


async def main() -> None:
    """Send what the environment says, then run until SIGTERM."""
    task, tasks, size = os.environ["BENCH_TASK"], int(os.environ["BENCH_TASKS"]), int(os.environ["BENCH_BYTES"])
    setting = SimpleNamespace(
        url="",
        concurrency=int(os.environ["BENCH_CONCURRENCY"]),
        processes=1,
        workload=os.environ["BENCH_WORKLOAD"],
        folder=Path(os.environ["BENCH_FOLDER"]),
    )
    keys = configuration("memory", setting)  # type: ignore[arg-type]  # what it reads of a Setting is there
    async with QBridge.from_config(registry, build_config(keys)) as bridge:
        for first in range(0, tasks, BATCH):
            numbers = range(first, min(first + BATCH, tasks))
            await bridge.send_many(
                TaskMessage(task=task, args=list(arguments_for(task, number, size))) for number in numbers
            )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, bridge.stop)
        # What `qbridge run` does for the worker, a program has to do by itself.
        gc.freeze()
        gc.set_threshold(5_000, 10, 10)
        await bridge.run()


if __name__ == "__main__":
    uvloop.run(main())
