"""How a source begins and ends, and what it leaves behind: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qbridge.errors import SourceClosed, SourceError
from qbridge.source import QueueSource, Settled
from qbridge.testing.conformance.base import ConformanceBase

__all__ = ["LifeRules"]

_OPEN_FILES = Path("/proc/self/fd")


class LifeRules(ConformanceBase, reads="QueueSource.open and QueueSource.close", anchor="life"):
    """Rules of `open` and `close`, and of `capabilities`."""

    async def test_the_source_can_do_what_is_declared(self) -> None:
        """`capabilities` of an open source are the declared ones, and `lease` is what they say."""
        source = await self.open_source()

        assert self.capabilities == source.capabilities
        if self.capabilities.lease == "timeout":
            assert self.long_lease == source.lease
        else:
            assert source.lease is None

    async def test_close_may_be_called_before_open_and_twice(self) -> None:
        """`close` is idempotent, allowed before `open` and, as all of it, bounded in time."""
        source = self.new_source(self.long_lease)

        await self.promptly(source.close(), "close() before open()")
        await self.promptly(source.open(), "open()")
        await self.promptly(source.close(), "close()")
        await self.promptly(source.close(), "close() of a closed source")

    async def test_a_source_that_is_not_open_says_so(self) -> None:
        """Before `open` and after `close` calls raise SourceClosed, and `wake` does nothing."""
        source = self.new_source(self.long_lease)
        await self._expect_closed(source, "before open()")

        await source.open()
        await source.close()

        await self._expect_closed(source, "after close()")

    async def test_close_ends_a_waiting_receive(self) -> None:
        """`close` while a `receive` waits ends both soon; the receive returns [] or raises a SourceError."""
        source = await self.open_source()
        receiving = asyncio.ensure_future(source.receive(1, self.patience * 4))
        await asyncio.wait([receiving], timeout=0.1)

        await self.promptly(source.close(), "close() while a receive waits")
        try:
            received = await self.promptly(receiving, "a receive whose source was closed")
        except SourceError:
            received = []

        assert [] == list(received)

    async def test_a_closed_source_opens_again(self) -> None:
        """`open` after `close` works on the same object, and the messages are still there."""
        other = await self.open_source()
        source = await self.open_source()
        await source.send([self.message(b"before")])

        await source.close()
        await other.send([self.message(b"meanwhile")])
        await source.open()
        received = await self.claim(source, 2)

        assert [b"before", b"meanwhile"] == sorted(delivery.body for delivery in received)

    async def test_a_delivery_can_be_settled_after_reopening(self) -> None:
        """A settlement that waited for a reconnect is DONE or LOST; if LOST, the message comes back."""
        source = await self.open_source(self.short_lease)
        await source.send([self.message(b"settled late")])
        [delivery] = await self.claim(source, 1)

        await source.close()
        await source.open()
        [outcome] = await source.settle([delivery.ack()])
        returned = await self.claim_at_most(source, 1, within=self.short_lease * 2)

        expected = {Settled.DONE: [], Settled.LOST: [b"settled late"]}
        assert expected[outcome] == [delivery.body for delivery in returned]

    async def test_a_cancelled_open_can_be_closed_and_repeated(self) -> None:
        """Cancelling `open` leaves nothing in the way of `close` and of another `open`."""
        source = self.new_source(self.long_lease)
        self._opened.append(source)

        for turns in range(6):
            opening = asyncio.ensure_future(source.open())
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening], timeout=self.patience)
            assert opening.done(), "a cancelled open did not end"
            assert opening.cancelled() or opening.exception() is None
            await self.promptly(source.close(), "close() after a cancelled open()")
        await source.open()
        await source.send([self.message(b"works")])

        assert [b"works"] == [delivery.body for delivery in await self.claim(source, 1)]

    async def test_nothing_is_left_behind(self) -> None:
        """After `close` no thread, task, open file, signal handler or logging configuration is left."""
        await self._live_once()  # what a process keeps for good, such as a pool of its event loop, is there now
        before = _traces()

        for _ in range(3):
            await self._live_once()

        end = time.monotonic() + self.patience
        while True:  # what is ending may take a moment to end
            left = _left_since(before)
            if not left or time.monotonic() > end:
                break
            await asyncio.sleep(0.02)
        assert not left, f"left behind after close(): {'; '.join(left)}"

    async def _live_once(self) -> None:
        source = self.new_source(self.long_lease)
        self._opened.append(source)
        await source.open()
        receiving = asyncio.ensure_future(source.receive(1, self.patience * 4))
        await source.send([self.message()])
        received = await self.promptly(receiving, "the delivery of a message to a receive that waits")
        await source.keep_alive(received)
        await source.settle([delivery.ack() for delivery in received])
        await source.receive(1, 0.05)
        await source.close()

    async def _expect_closed(self, source: QueueSource, when: str) -> None:
        source.wake()
        calls: dict[str, Callable[[], object]] = {
            "receive": lambda: source.receive(1, 0),
            "send": lambda: source.send([self.message()]),
            "stats": source.stats,
        }
        for name, call in calls.items():
            try:
                await self.promptly(call(), f"{name}() {when}")  # type: ignore[arg-type]  # each is a coroutine
            except SourceClosed:
                continue
            pytest.fail(f"{name}() {when} raised no SourceClosed")


def _traces() -> dict[str, set[object]]:
    """Return what a source might leave behind, by kind."""
    gc.collect()
    root = logging.getLogger()
    return {
        # The threads of a loop's own pool end with the loop.
        "threads": {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")},
        "tasks": set(asyncio.all_tasks()),
        "signal handlers": {(number, signal.getsignal(number)) for number in signal.valid_signals()},
        "logging": {root.level, *root.handlers},
        "open files": set(_open_files()),
    }


def _open_files() -> Iterator[str]:
    """Yield what this process has open, a second handle of the same thing under another name; nothing without /proc."""
    seen: Counter[str] = Counter()
    for handle in _OPEN_FILES.iterdir() if _OPEN_FILES.is_dir() else ():
        with contextlib.suppress(OSError):  # closed since it was listed, as the listing's own handle is
            name = str(handle.readlink())
            seen[name] += 1
            yield f"{name} ({seen[name]})"


def _left_since(before: dict[str, set[object]]) -> list[str]:
    now = _traces()
    return [f"{kind}: {now[kind] - before[kind]}" for kind in now if now[kind] - before[kind]]
