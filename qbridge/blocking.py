"""BlockingSource: the contract of a backend, for authors whose client library blocks.

An author writes plain methods, `do_open`, `do_receive`, `do_settle` and so on. One thread, which lives from `open` to
`close`, calls all of them, one after the other: a client object is made, used and closed in one thread, and no two of
them ever overlap. What that costs: while one blocks, the others wait.

So `do_receive` must not wait for messages as it pleases. There are three ways to wait, and each has its price:

- **Look and return** (as it comes, `longest_wait = 0`). The waiting is done here, with the thread free for others. A
  message that another process sends is seen after `poll_interval` at most, at the price of that many looks a second.
  What this source itself sends, releases or redrives is seen at once.
- **Look, and be told.** Whoever learns that something came (a callback, a notification) calls `look_again()` from any
  thread: it is seen at once. `poll_interval` may then be long; it is what finds lapsed leases and due messages.
- **Block and be woken.** With `longest_wait` above 0, `do_receive` may block that long for a first message. When
  another call comes meanwhile, `do_wake` is called to end that; if the client can't be woken, everything else waits up
  to `longest_wait`: settling, sending, and the renewal of leases, which must stay far below a third of the lease.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TypeVar

from qbridge.blocking_thread import BlockingThread
from qbridge.errors import SourceClosed, SourceUnavailable
from qbridge.source import Action, DeadLetter, Delivery, Outgoing, QueueSource, QueueStats, Settled, Settlement

__all__ = ["BlockingSource"]

log = logging.getLogger(__name__)

#: Seconds that the redriving or purging of all dead letters may take.
_BULK_TIMEOUT = 600.0

#: The share of its wait after which a `do_receive` has waited. A share, as the last wait of a `receive` may be tiny.
_WAITED = 0.9

_COMES_BACK = frozenset({Action.RETRY, Action.RELEASE})

T = TypeVar("T")


class BlockingSource(QueueSource):
    """A source written as plain blocking methods, those whose names begin with `do_`.

    All of them but `do_wake` are called in one thread, one at a time, only between a `do_open` and its `do_close`.
    Each keeps the rules of the `QueueSource` method after which it is named, and may raise what that may raise; any
    other exception reaches the core as `SourceUnavailable` with that exception as its cause. Give every call of the
    client library a time limit: a thread can't be ended from outside. One that hangs while the source is closed is
    logged and left behind, and `open` raises `SourceUnavailable` until it has ended, so that no two threads ever touch
    one object.

    What a `receive` had claimed when it was cancelled, or when the source was closed, is released in the thread at
    once, and doesn't count as an attempt.

    A subclass sets `capabilities`, and `lease` if a lease runs out.

    Args:
        name: The queue's name, for the thread and for error texts.
    """

    #: Seconds between two looks for messages while a `receive` waits and `do_receive` itself doesn't; above 0.
    poll_interval: float = 0.1

    #: The most seconds that a `do_receive` is asked to wait for a first message. 0: it only looks.
    longest_wait: float = 0.0

    #: Seconds that a call may take, its wait for its turn included, before its caller gets `SourceUnavailable`.
    call_timeout: float = 30.0

    #: Seconds that `close` may take before the thread is left behind. The core itself waits for 2.
    close_timeout: float = 1.5

    def __init__(self, name: str) -> None:
        self.name = name
        # Two underscores: a subclass may call its own attributes as it pleases without breaking these.
        self.__thread: BlockingThread | None = None
        # The thread of an earlier `open`, which may hang.
        self.__left: BlockingThread | None = None
        self.__loop: asyncio.AbstractEventLoop | None = None
        self.__look = asyncio.Event()
        self.__is_woken = False
        # Set in the thread while `do_receive` may block, so that whoever else needs it knows to wake it.
        self.__may_block = False
        self.__wakes = 0

    @abstractmethod
    def do_open(self) -> None:
        """Connect and create what the queue needs on the broker; make the client objects here. See `open`."""

    @abstractmethod
    def do_receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim up to `limit` messages; [] if there is none. See `receive`.

        Args:
            limit: At least 1; never more are returned.
            wait: Seconds for which it may block until there is a first message: 0, or at most `longest_wait`.
        """

    @abstractmethod
    def do_settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """End deliveries; at least one. See `settle`."""

    @abstractmethod
    def do_send(self, messages: Sequence[Outgoing]) -> None:
        """Give messages to the broker; at least one. See `send`."""

    @abstractmethod
    def do_keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew leases; at least one. Return those that are lost. See `keep_alive`."""

    @abstractmethod
    def do_stats(self) -> QueueStats:
        """Count what is in the queue. See `stats`."""

    @abstractmethod
    def do_dead_letters(self, *, limit: int, after: str | None, ids: Sequence[str] | None) -> Sequence[DeadLetter]:
        """List dead letters. See `dead_letters`."""

    @abstractmethod
    def do_redrive(self, ids: Sequence[str] | None) -> int:
        """Make dead letters ready again. See `redrive`."""

    @abstractmethod
    def do_purge(self, ids: Sequence[str] | None) -> int:
        """Delete dead letters. See `purge`."""

    @abstractmethod
    def do_close(self) -> None:
        """Let go of the connection. Called last in the thread, after a `do_open` that failed half-way too."""

    def do_wake(self) -> None:
        """Let a `do_receive` that blocks return soon; one that begins at this very moment too.

        The only method that another thread calls: the event loop's, on which it must not block. Called while a
        `do_receive` with a `wait` above 0 runs, and perhaps when it has just ended or `do_close` has followed it.
        Override it where the client can be woken: an event, a socket pair, a command on a second connection.
        """

    def look_again(self) -> None:
        """Let a waiting `receive` look at once. May be called from any thread, at any time."""
        loop = self.__loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self.__look_now)

    async def open(self) -> None:
        """Start the thread and call `do_open` in it."""
        if self.__thread is not None:
            return
        if self.__left is not None and self.__left.is_alive:
            raise SourceUnavailable(
                f"queue {self.name!r}: the thread of its last connection hangs ({self.__left.doing}); a thread "
                "can't be ended from outside, so give the calls of the client library a time limit"
            )
        self.__loop = asyncio.get_running_loop()
        self.__look = asyncio.Event()
        self.__is_woken = False
        self.__may_block = False
        thread = self.__left = BlockingThread(
            f"qbridge-{self.name}",
            label=f"queue {self.name!r}",
            begin=self.do_open,
            end=self.do_close,
            nudge=self.__make_way,
        )
        try:
            await thread.start(self.call_timeout)
        except BaseException:
            await thread.stop(self.close_timeout)
            raise
        self.__thread = thread

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Call `do_receive` until it has something, the time is over, or `wake` is called."""
        thread = self.__opened_thread()
        end = monotonic() + wait
        try:
            while True:
                self.__look.clear()
                deliveries, pause = await self.__claim(thread, limit, end)
                if self.__thread is not thread:  # closed meanwhile
                    if deliveries:
                        thread.call_soon("releasing for a closed source", partial(self.__release, deliveries))
                    return []
                pause = min(pause, end - monotonic())
                if deliveries or self.__is_woken or end <= monotonic():
                    return deliveries
                if pause > 0:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await self.__look.wait()
                if self.__thread is not thread:
                    return []
        finally:
            self.__is_woken = False

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Call `do_settle`."""
        if not settlements:
            self.__opened_thread()
            return []
        outcomes = await self.__ask("do_settle", lambda: self.do_settle(settlements))
        if any(settlement.action in _COMES_BACK for settlement in settlements):
            self.__look.set()
        return outcomes

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Call `do_send`."""
        if not messages:
            self.__opened_thread()
            return
        await self.__ask("do_send", lambda: self.do_send(messages))
        self.__look.set()

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Call `do_keep_alive`."""
        if not deliveries:
            self.__opened_thread()
            return []
        return await self.__ask("do_keep_alive", lambda: self.do_keep_alive(deliveries))

    async def stats(self) -> QueueStats:
        """Call `do_stats`."""
        return await self.__ask("do_stats", self.do_stats)

    async def dead_letters(
        self, *, limit: int = 100, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[DeadLetter]:
        """Call `do_dead_letters`."""
        return await self.__ask("do_dead_letters", lambda: self.do_dead_letters(limit=limit, after=after, ids=ids))

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Call `do_redrive`; it may take ten minutes."""
        count = await self.__ask("do_redrive", lambda: self.do_redrive(ids), timeout=_BULK_TIMEOUT)
        self.__look.set()
        return count

    async def purge(self, ids: Sequence[str] | None = None) -> int:
        """Call `do_purge`; it may take ten minutes."""
        return await self.__ask("do_purge", lambda: self.do_purge(ids), timeout=_BULK_TIMEOUT)

    def wake(self) -> None:
        """Let the waiting `receive`, or the next one, return."""
        self.__is_woken = True
        self.__look_now()

    async def close(self) -> None:
        """Call `do_close` and end the thread, within `close_timeout`. A `receive` that waits returns []."""
        thread, self.__thread = self.__thread, None
        self.__look_now()
        if thread is not None:
            await thread.stop(self.close_timeout)

    def __opened_thread(self) -> BlockingThread:
        if self.__thread is None:
            raise SourceClosed(f"queue {self.name!r} is not open: call open() first")
        return self.__thread

    async def __ask(self, name: str, function: Callable[[], T], *, timeout: float | None = None) -> T:
        thread = self.__opened_thread()
        return await thread.call(name, function, timeout=self.call_timeout if timeout is None else timeout)

    async def __claim(self, thread: BlockingThread, limit: int, end: float) -> tuple[Sequence[Delivery], float]:
        """Call `do_receive` once; return what it claimed, and for how long not to call it again."""

        def claim() -> tuple[Sequence[Delivery], float]:
            remaining = max(0.0, min(self.longest_wait, end - monotonic()))
            began, wakes = monotonic(), self.__wakes
            self.__may_block = remaining > 0
            # Only after that: whoever comes from here on sees that it has to wake us.
            wait = 0.0 if thread.has_more or self.__is_woken or self.__look.is_set() else remaining
            try:
                deliveries = self.do_receive(limit, wait)
            finally:
                self.__may_block = False
            if remaining > 0 and (wait == 0 or self.__wakes != wakes or monotonic() - began >= wait * _WAITED):
                return deliveries, 0.0
            # It didn't wait though it might have: without a pause this would spin.
            return deliveries, self.poll_interval

        return await thread.call(
            "do_receive",
            claim,
            timeout=self.call_timeout + self.longest_wait,
            undo=lambda result: self.__release(result[0]),
        )

    def __release(self, deliveries: Sequence[Delivery]) -> None:
        """Give back, in the thread, what was claimed for a caller who is gone."""
        if deliveries:
            self.do_settle([delivery.release() for delivery in deliveries])
            self.look_again()

    def __look_now(self) -> None:
        self.__look.set()
        self.__make_way()

    def __make_way(self) -> None:
        """End the wait of a `do_receive` that may block."""
        if not self.__may_block:
            return
        self.__wakes += 1
        try:
            self.do_wake()
        except Exception as exc:  # noqa: BLE001  # whoever waits for the thread waits a little longer
            log.warning("do_wake failed", extra={"queue": self.name, "error": f"{type(exc).__name__}: {exc}"})
