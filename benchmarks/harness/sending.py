"""Send tasks through a system's own library, in its virtual environment, and print what was measured as JSON.

    python -m benchmarks.harness.sending benchmarks.systems.repid.app prefill noop 20000

The module named first has `open_sender()`, which returns a `Sender`. Its methods are coroutine functions, or all plain
ones: plain sends that go out at once do so from `threads` threads, 16 unless the sender says otherwise. The process
that measures how long a send takes has warmed up: it has sent at least one task before.

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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ["Sender", "arguments_for", "main"]

GROUP = 1_000
LONGEST = 2.0
LATENCY_PAUSE = 0.025


class Sender:
    """What `open_sender()` returns; methods are all coroutine functions or all plain ones. No need to derive from it.

    A system without a call for many has no `send_many` at all.
    """

    #: For plain methods: how many threads send at once.
    threads = 16

    async def open(self) -> None:
        """Connect."""

    async def send(self, task: str, *arguments: Any) -> None:
        """Send one task; return when the broker has it."""
        raise NotImplementedError

    async def send_many(self, task: str, calls: Sequence[tuple[Any, ...]]) -> None:
        """Send one task for each of these arguments, with the system's call for many."""
        raise NotImplementedError

    async def close(self) -> None:
        """Disconnect."""


def arguments_for(task: str, number: int, size: int = 0, seconds: float = 0.0) -> tuple[Any, ...]:
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


async def _send_all(sender: Any, options: argparse.Namespace) -> dict[str, Any]:
    calls = _calls(options)
    await sender.open()
    try:
        if options.mode == "prefill":
            await _send_groups(sender, options.task, calls, bulk=hasattr(sender, "send_many"), longest=None)
            return {"sent": options.count}
        first = next(calls)
        await sender.send(options.task, *first)
        if options.mode == "latency":
            for call in calls:
                await asyncio.sleep(LATENCY_PAUSE)
                await sender.send(options.task, *call)
            return {"sent": options.count}
        began = time.perf_counter()
        if options.mode == "one":
            sent = 0
            for sent, call in enumerate(calls, 1):
                await sender.send(options.task, *call)
                if time.perf_counter() - began > LONGEST:
                    break
        else:
            bulk = options.mode == "bulk"
            sent = await _send_groups(sender, options.task, calls, bulk=bulk, longest=LONGEST)
        return {"sent": sent + 1, "timed": sent, "seconds": time.perf_counter() - began}
    finally:
        await sender.close()


async def _send_groups(
    sender: Any, task: str, calls: Iterator[tuple[Any, ...]], *, bulk: bool, longest: float | None
) -> int:
    sent = 0
    began = time.perf_counter()
    for group in _grouped(calls):
        if bulk:
            await sender.send_many(task, group)
        else:
            await asyncio.gather(*(sender.send(task, *call) for call in group))
        sent += len(group)
        if longest is not None and time.perf_counter() - began > longest:
            break
    return sent


def _send_all_plainly(sender: Any, options: argparse.Namespace) -> dict[str, Any]:
    calls = _calls(options)
    sender.open()
    try:
        with ThreadPoolExecutor(getattr(sender, "threads", Sender.threads)) as pool:
            if options.mode == "prefill":
                _send_groups_plainly(sender, options.task, calls, pool, bulk=hasattr(sender, "send_many"), longest=None)
                return {"sent": options.count}
            first = next(calls)
            sender.send(options.task, *first)
            if options.mode == "latency":
                for call in calls:
                    time.sleep(LATENCY_PAUSE)
                    sender.send(options.task, *call)
                return {"sent": options.count}
            began = time.perf_counter()
            if options.mode == "one":
                sent = 0
                for sent, call in enumerate(calls, 1):
                    sender.send(options.task, *call)
                    if time.perf_counter() - began > LONGEST:
                        break
            else:
                bulk = options.mode == "bulk"
                sent = _send_groups_plainly(sender, options.task, calls, pool, bulk=bulk, longest=LONGEST)
            return {"sent": sent + 1, "timed": sent, "seconds": time.perf_counter() - began}
    finally:
        sender.close()


def _send_groups_plainly(
    sender: Any,
    task: str,
    calls: Iterator[tuple[Any, ...]],
    pool: ThreadPoolExecutor,
    *,
    bulk: bool,
    longest: float | None,
) -> int:
    sent = 0
    began = time.perf_counter()
    for group in _grouped(calls):
        if bulk:
            sender.send_many(task, group)
        else:
            for _ in pool.map(lambda call: sender.send(task, *call), group):
                pass
        sent += len(group)
        if longest is not None and time.perf_counter() - began > longest:
            break
    return sent


def _calls(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    for number in range(options.first, options.first + options.count):
        yield arguments_for(options.task, number, options.bytes, options.seconds)


def _grouped(calls: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    group = []
    size = 0
    for call in calls:
        group.append(call)
        size += len(call[1]) if len(call) > 1 and isinstance(call[1], str) else 0
        if len(group) == GROUP or size > 4 * 2**20:
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
