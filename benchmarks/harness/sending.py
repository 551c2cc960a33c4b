"""Send tasks through a system's own library, in its virtual environment, and print what was measured as JSON.

    python -m benchmarks.harness.sending benchmarks.systems.repid.app prefill noop 20000

The module named first has `open_sender()`, which returns a `Sender`. Its methods are coroutine functions, or all plain
ones: plain sends that go out at once do so from `threads` threads, 16 unless the sender says otherwise. The process
that measures how long sends take has warmed up: it has sent one task before, and 1,000 at once where that is measured.

Modes, each with the task's name and a number:

    prefill      send so many tasks as fast as possible; nothing is measured
    one          await each send before the next, for two seconds or so many tasks
    concurrent   send 1,000 at once, then the next 1,000, for two seconds or so many tasks
    bulk         the same with the system's call for many
    latency      send one task each 25 ms, so many in all
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

__all__ = ["Call", "Sender", "arguments_for", "main"]

GROUP = 1_000
#: How many are sent at once before a worker starts, where each may take a connection of its own.
FEW = 100
LONGEST = 2.0
LATENCY_PAUSE = 0.025
#: How many threads send at once, unless a sender with plain methods says otherwise.
THREADS = 16
#: Characters of the texts of tasks that are sent at once.
LARGEST_GROUP = 4 * 2**20

Call = tuple[Any, ...]


class Sender(Protocol):
    """What `open_sender()` returns. Its methods may all be coroutine functions, or all plain ones.

    One that has plain methods may say as `threads` how many threads send at once. A system with a call for many has
    `send_many(task, calls)` too, which sends a task for each of these arguments with it.
    """

    def open(self) -> Awaitable[None] | None:
        """Connect."""

    def send(self, task: str, *arguments: Any) -> Awaitable[None] | None:
        """Send one task; be done when the broker has it."""

    def close(self) -> Awaitable[None] | None:
        """Disconnect."""


def arguments_for(task: str, number: int, size: int = 0, seconds: float = 0.0) -> Call:
    """Return the arguments of a task.

    Args:
        task: Name of the handler.
        number: The task's number.
        size: Characters of the text of `payload`.
        seconds: Processor time of `crunch`.
    """
    if task == "payload":
        return (number, "x" * size)
    if task == "stamp":
        return (number, time.monotonic_ns())
    if task == "crunch":
        return (number, seconds)
    return (number,)


class _Watch:
    """Counts what was sent, and tells when it took long enough."""

    def __init__(self, longest: float | None) -> None:
        self.sent = 0
        self._longest = longest
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def goes_on(self, count: int) -> bool:
        """Count these; return whether there is time for more."""
        self.sent += count
        return self._longest is None or self.seconds < self._longest

    @property
    def found(self) -> dict[str, Any]:
        return {"timed": self.sent, "seconds": self.seconds}


async def _send_all(sender: Any, options: argparse.Namespace) -> dict[str, Any]:
    calls = _calls(options)
    await sender.open()
    try:
        if options.mode == "prefill":
            bulk = hasattr(sender, "send_many")
            await _send_groups(sender, options.task, _grouped(calls, GROUP if bulk else FEW), _Watch(None), bulk=bulk)
            return {}
        await sender.send(options.task, *next(calls))
        if options.mode == "latency":
            for _ in range(1, options.count):
                await asyncio.sleep(LATENCY_PAUSE)
                await sender.send(options.task, *next(calls))
            return {}
        if options.mode == "one":
            watch = _Watch(LONGEST)
            for call in calls:
                await sender.send(options.task, *call)
                if not watch.goes_on(1):
                    break
        else:
            bulk = options.mode == "bulk"
            await _send_groups(sender, options.task, _grouped(islice(calls, GROUP)), _Watch(None), bulk=bulk)
            watch = _Watch(LONGEST)
            await _send_groups(sender, options.task, _grouped(calls), watch, bulk=bulk)
        return watch.found
    finally:
        await sender.close()


async def _send_groups(sender: Any, task: str, groups: Iterator[list[Call]], watch: _Watch, *, bulk: bool) -> None:
    for group in groups:
        if bulk:
            await sender.send_many(task, group)
        else:
            await asyncio.gather(*(sender.send(task, *call) for call in group))
        if not watch.goes_on(len(group)):
            break


def _send_all_plainly(sender: Any, options: argparse.Namespace) -> dict[str, Any]:
    calls = _calls(options)
    sender.open()
    # The same threads for all groups: they may hold connections.
    pool = ThreadPoolExecutor(getattr(sender, "threads", THREADS))

    def send_groups(groups: Iterator[list[Call]], watch: _Watch, *, bulk: bool) -> None:
        for group in groups:
            if bulk:
                sender.send_many(options.task, group)
            else:
                for _ in pool.map(lambda call: sender.send(options.task, *call), group):
                    pass
            if not watch.goes_on(len(group)):
                break

    try:
        if options.mode == "prefill":
            send_groups(_grouped(calls), _Watch(None), bulk=hasattr(sender, "send_many"))
            return {}
        sender.send(options.task, *next(calls))
        if options.mode == "latency":
            for _ in range(1, options.count):
                time.sleep(LATENCY_PAUSE)
                sender.send(options.task, *next(calls))
            return {}
        if options.mode == "one":
            watch = _Watch(LONGEST)
            for call in calls:
                sender.send(options.task, *call)
                if not watch.goes_on(1):
                    break
        else:
            bulk = options.mode == "bulk"
            send_groups(_grouped(islice(calls, GROUP)), _Watch(None), bulk=bulk)
            watch = _Watch(LONGEST)
            send_groups(_grouped(calls), watch, bulk=bulk)
        return watch.found
    finally:
        pool.shutdown()
        sender.close()


def _calls(options: argparse.Namespace) -> Iterator[Call]:
    for number in range(options.first, options.first + options.count):
        # Made when it is sent, as it may have the moment in it.
        yield arguments_for(options.task, number, options.bytes, options.seconds)


def _grouped(calls: Iterator[Call], most: int = GROUP) -> Iterator[list[Call]]:
    group = []
    size = 0
    for call in calls:
        group.append(call)
        size += sum(len(argument) for argument in call if isinstance(argument, str))
        if len(group) == most or size > LARGEST_GROUP:
            yield group
            group = []
            size = 0
    if group:
        yield group


def main(arguments: Sequence[str] | None = None) -> None:
    """Send what the command line says."""
    parser = argparse.ArgumentParser(description="Send tasks through a system's own library.")
    parser.add_argument("app", help="module with open_sender()")
    parser.add_argument("mode", choices=["prefill", "one", "concurrent", "bulk", "latency"])
    parser.add_argument("task")
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0, help="number of the first task")
    parser.add_argument("--bytes", type=int, default=0, help="characters of the text of payload")
    parser.add_argument("--seconds", type=float, default=0.0, help="processor time of crunch")
    options = parser.parse_args(arguments)
    sender = importlib.import_module(options.app).open_sender()
    if inspect.iscoroutinefunction(sender.send):
        found = _runner()(_send_all(sender, options))
    else:
        found = _send_all_plainly(sender, options)
    print(json.dumps(found), flush=True)


def _runner() -> Callable[..., Any]:
    try:
        return importlib.import_module("uvloop").run  # type: ignore[no-any-return]
    except ImportError:
        return asyncio.run


if __name__ == "__main__":
    main()
