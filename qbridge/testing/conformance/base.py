"""ConformanceBase: what an author of a backend gives, and what the rules are written with."""

from __future__ import annotations

import asyncio
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

import pytest

from qbridge.message import new_message_id
from qbridge.source import Capabilities, Delivery, Outgoing, QueueSource

__all__ = ["TOLERANCE", "Clock", "ConformanceBase", "needs"]

#: Seconds by which two clocks may be read differently.
TOLERANCE = 0.02

ResultT = TypeVar("ResultT")
TestT = TypeVar("TestT", bound=Callable[..., Any])


class Clock(Protocol):
    """A clock that a test moves. What a backend measures with it, it must look at again when it is moved."""

    def __call__(self) -> float:
        """Return the seconds it shows."""

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`."""


def needs(*hooks: str, **abilities: object) -> Callable[[TestT], TestT]:
    """Mark a test that is skipped, and says why, unless the backend has what it needs.

    Args:
        hooks: Names of hooks of `ConformanceBase` that the author must have given.
        abilities: What `Capabilities` must declare, such as `delay=True`.
    """

    def mark(test: TestT) -> TestT:
        test.needs = (hooks, abilities)  # type: ignore[attr-defined]  # read when the test runs
        return test

    return mark


class ConformanceBase(ABC):
    """The author's side of the kit, and its vocabulary.

    Coroutine methods named `test_…` become plain functions that run on an event loop of their own, so no plugin is
    needed; a subclass may add such tests. One instance is one test: whatever an author keeps on `self` is one test's.
    """

    #: What the backend declares. Each source must say the same after `open`.
    capabilities: ClassVar[Capabilities]

    #: Seconds of a lease that runs out while a test waits: as short as the backend allows, but not under 0.2.
    short_lease: float = 1.0

    #: Seconds of a lease that doesn't run out during a test.
    long_lease: float = 60.0

    #: Seconds by which the tests of delays delay a message; at least 0.2.
    delay: float = 0.5

    #: Seconds within which what is due must have happened, on the slowest machine that runs the tests.
    patience: float = 5.0

    #: Seconds after which a test is given up as hanging.
    time_limit: float = 45.0

    #: A clock for leases and delays that the tests move; None lets real time pass. `wait` is real time always.
    clock: Clock | None = None

    #: What of `QueueStats` the broker can't tell: "in_flight" (then a source counts what it has itself), "oldest_age".
    untold: ClassVar[frozenset[str]] = frozenset()

    _anchor: ClassVar[str] = ""
    _opened: list[QueueSource]

    def __init_subclass__(cls, *, reads: str = "", anchor: str = "", **kwargs: Any) -> None:
        """Turn coroutine tests into plain ones.

        Args:
            reads: Where the contract speaks of the rules that this class holds.
            anchor: The heading of the guide under which they stand.
            kwargs: For other bases.
        """
        super().__init_subclass__(**kwargs)
        if anchor:
            cls._anchor = anchor
        for name, member in list(vars(cls).items()):
            if name.startswith("test_") and inspect.iscoroutinefunction(member):
                setattr(cls, name, _as_plain_test(member, reads, anchor))

    @abstractmethod
    def new_source(self, lease: float) -> QueueSource:
        """Make an unopened source. Does no I/O.

        All sources that one test makes are for one queue, which is empty at first and which no other test uses.

        Args:
            lease: Seconds of its lease, `short_lease` or `long_lease`; of no meaning where a connection is the lease.
        """

    def new_unreachable_source(self) -> QueueSource:
        """Hook: make a source whose broker can't be reached, such as a port on which nobody listens."""
        self._skip_for_lack_of("new_unreachable_source")

    async def restart(self) -> None:
        """Hook: stop the broker, as hard as it must survive, and start it again with what it has stored."""
        self._skip_for_lack_of("restart")

    async def cut(self, source: QueueSource) -> None:
        """Hook: break the connections that `source` has, as a network would; the broker stays reachable."""
        self._skip_for_lack_of("cut")

    async def kill_consumer(self, count: int) -> None:
        """Hook: let another process claim `count` messages with a lease of `short_lease`, and kill it with SIGKILL."""
        self._skip_for_lack_of("kill_consumer")

    async def open_source(self, lease: float | None = None) -> QueueSource:
        """Return an open source of the test's queue; it is closed at the end of the test.

        Args:
            lease: Seconds; None is `long_lease`.
        """
        source = self.new_source(self.long_lease if lease is None else lease)
        self._opened.append(source)
        await source.open()
        return source

    def time(self) -> float:
        """Return the seconds by which leases and delays are measured."""
        return self.clock() if self.clock is not None else asyncio.get_running_loop().time()

    async def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass on the clock by which leases and delays are measured."""
        if self.clock is not None:
            self.clock.advance(seconds)
        else:
            await asyncio.sleep(seconds)

    async def claim(self, source: QueueSource, count: int) -> list[Delivery]:
        """Receive `count` deliveries; fail if they are not there within `patience`."""
        deliveries = await self.claim_at_most(source, count, within=self.patience)
        if len(deliveries) < count:
            pytest.fail(f"{len(deliveries)} of {count} messages were delivered within {self.patience:g} s")
        return deliveries

    async def claim_at_most(self, source: QueueSource, count: int, *, within: float) -> list[Delivery]:
        """Receive until `count` deliveries are there or `within` seconds are over.

        A `clock` is moved only while nothing is there.
        """
        end = self.time() + within
        deliveries: list[Delivery] = []
        while len(deliveries) < count:
            remaining = end - self.time()
            if remaining <= 0:
                break
            received = await source.receive(count - len(deliveries), 0 if self.clock is not None else remaining)
            deliveries += received
            if not received and self.clock is not None:
                self.clock.advance(min(self.short_lease, self.delay) / 10)
        return deliveries

    async def lose(self, source: QueueSource) -> None:
        """Take away what `source`, opened with `short_lease`, has in flight, as if its worker had died."""
        if self.capabilities.lease == "timeout":
            await self.pass_time(self.short_lease * 1.1)
        else:
            await source.close()
            await source.open()

    async def promptly(self, awaitable: Awaitable[ResultT], what: str, *, after: float = 0.0) -> ResultT:
        """Await something that must take no more than `patience` beyond the `after` seconds that it is asked to take.

        `what` it is stands in the failure.
        """
        limit = asyncio.timeout(after + self.patience)
        try:
            async with limit:
                return await awaitable
        except TimeoutError:
            if not limit.expired():
                raise
            pytest.fail(f"{what} took longer than {after + self.patience:g} s")

    @staticmethod
    def message(body: bytes = b"body", *, delay: float = 0.0, headers: Mapping[str, str] | None = None) -> Outgoing:
        """Return a message to send, with an id of its own."""
        return Outgoing(body=body, message_id=new_message_id(), delay=delay, headers=headers or {})

    async def _run(self, test: Callable[..., Awaitable[None]], *args: Any, **kwargs: Any) -> None:
        self._opened = []
        limit = asyncio.timeout(self.time_limit)
        try:
            async with limit:
                await test(self, *args, **kwargs)
        except TimeoutError:
            if not limit.expired():
                raise
            pytest.fail(f"the test did not end within {self.time_limit:g} s")
        finally:
            for source in reversed(self._opened):
                await self.promptly(source.close(), "close()")

    def _skip_unless_there_is(self, hooks: Iterable[str], abilities: Mapping[str, object]) -> None:
        for ability, needed in abilities.items():
            declared = getattr(self.capabilities, ability)
            if declared != needed:
                pytest.skip(f"the backend declares {ability}={declared!r}")
        for hook in hooks:
            if getattr(type(self), hook) is getattr(ConformanceBase, hook):
                self._skip_for_lack_of(hook)

    def _skip_for_lack_of(self, hook: str) -> NoReturn:
        pytest.skip(f"{type(self).__name__} has no {hook}() hook")


def _as_plain_test(test: Callable[..., Awaitable[None]], reads: str, anchor: str) -> Callable[..., None]:
    rule = inspect.getdoc(test) or test.__name__

    @functools.wraps(test)
    def plain(self: ConformanceBase, *args: Any, **kwargs: Any) -> None:
        self._skip_unless_there_is(*getattr(test, "needs", ((), {})))
        try:
            with asyncio.Runner() as runner:
                runner.run(self._run(test, *args, **kwargs))
        except (Exception, pytest.fail.Exception) as exc:
            exc.add_note(f"broken rule: {rule}")
            if reads:
                exc.add_note(f"read about it: {reads} in qbridge.source; docs/guides/conformance-kit.md#{anchor}")
            raise

    return plain
