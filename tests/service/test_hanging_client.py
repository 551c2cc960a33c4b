"""A client library that hangs for ever holds neither the drain of a worker nor the exit of its process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, logging, threading
from qbridge import Backend, HandlerRegistry, QBridge
from qbridge_memory import MemoryBroker, MemoryOptions
from tests.support.blocking_memory import CAPABILITIES, BlockingMemorySource

HANGS = "{hangs}"
registry = HandlerRegistry()
settled = threading.Event()
broker = MemoryBroker()


class Hanging(BlockingMemorySource):
    def do_open(self):
        super().do_open()
        self.connected.before = self.hang

    def hang(self, name):
        # One thread makes all calls: a claim that comes after a settle finds it done.
        if name == HANGS and (name != "claim" or settled.is_set()):
            threading.Event().wait()
        if name == "settle":
            settled.set()


@registry.task
async def work():
    pass


backend = Backend(
    name="hanging",
    summary="",
    options=MemoryOptions,
    capabilities=CAPABILITIES,
    create=lambda name, options: Hanging(name, options, broker=broker),
    needs={{}},
    example={{}},
)


async def main():
    logging.basicConfig(format="%(message)s")
    async with QBridge(registry, queues={{"default": {{"backend": backend}}}}, shutdown={{"flush": "1s"}}) as bridge:
        await bridge.send("work")
        asyncio.get_running_loop().call_later(1.5, bridge.stop)
        report = await bridge.run()
        print("drained", report.abandoned)


asyncio.run(main())
"""


@pytest.mark.parametrize(("hangs", "abandoned"), [("claim", 0), ("settle", 1)])
def test_a_call_that_hangs_for_ever_holds_no_exit(hangs: str, abandoned: int) -> None:
    """With a thread stuck in the client the worker drains, says so in one line, and its process ends by itself."""
    began = time.monotonic()

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(hangs=hangs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (0, f"drained {abandoned}\n") == (done.returncode, done.stdout), done.stderr
    assert ["a blocking call hangs, its thread is left behind"] == [
        line for line in done.stderr.splitlines() if "hangs" in line
    ]
    assert time.monotonic() - began < 30
