"""Deadlines: on time, in order, with few timers, and without a trace of what was discarded."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from qbridge.deadlines import Deadlines


class SteppedLoop(asyncio.SelectorEventLoop):
    """A real event loop on a clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()

    def time(self) -> float:
        """Return the time that the test has made it."""
        return self.now

    @property
    def timers(self) -> list[float]:
        """When the timers that wait will fire."""
        return sorted(timer.when() for timer in self._scheduled if not timer.cancelled())  # type: ignore[attr-defined]  # every base loop has it

    def advance(self, seconds: float) -> None:
        """Move the clock, stopping at each timer on the way to let it fire."""
        end = self.now + seconds
        while self.timers and self.timers[0] <= end:
            self.now = max(self.now, self.timers[0])
            self.call_soon(self.stop)
            self.run_forever()
        self.now = end


class Item:
    """Something with a time limit."""


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    """A loop on the test's time."""
    loop = SteppedLoop()
    yield loop
    loop.close()


@pytest.fixture
def expired() -> list[tuple[float, Any]]:
    """What has expired, and when."""
    return []


@pytest.fixture
def deadlines(loop: SteppedLoop, expired: list[tuple[float, Any]]) -> Deadlines[Any]:
    """Deadlines on that loop."""
    return Deadlines(loop, lambda item: expired.append((loop.now, item)))


def test_each_item_has_its_whole_limit(
    loop: SteppedLoop, deadlines: Deadlines[Any], expired: list[tuple[float, Any]]
) -> None:
    """Items that come one after another expire one after another: not early, and not late."""
    for item in ("a", "b", "c"):
        deadlines.add(item, 10.0)
        loop.advance(3.0)

    loop.advance(60.0)

    assert [(10.0, "a"), (13.0, "b"), (16.0, "c")] == expired


def test_limits_run_beside_one_another(
    loop: SteppedLoop, deadlines: Deadlines[Any], expired: list[tuple[float, Any]]
) -> None:
    """A shorter limit is over first, in whatever order they were added."""
    for item, limit in (("long", 60.0), ("short", 1.0), ("middle", 5.0)):
        deadlines.add(item, limit)

    loop.advance(60.0)

    assert [(1.0, "short"), (5.0, "middle"), (60.0, "long")] == expired


def test_a_discarded_item_does_not_expire(
    loop: SteppedLoop, deadlines: Deadlines[Any], expired: list[tuple[float, Any]]
) -> None:
    """What ended in time is let alone, be it the next one due or one behind it."""
    for item in ("a", "b", "c", "d"):
        deadlines.add(item, 10.0)
        loop.advance(1.0)

    deadlines.discard("a", 10.0)
    deadlines.discard("c", 10.0)
    loop.advance(60.0)

    assert [(11.0, "b"), (13.0, "d")] == expired


def test_discarding_what_is_unknown_is_no_error(
    loop: SteppedLoop, deadlines: Deadlines[Any], expired: list[tuple[float, Any]]
) -> None:
    """An item that has expired, or was never added, may be discarded."""
    deadlines.add("a", 1.0)
    loop.advance(1.0)

    deadlines.discard("a", 1.0)
    deadlines.discard("b", 5.0)

    assert [(1.0, "a")] == expired


def test_many_items_share_one_timer(loop: SteppedLoop, deadlines: Deadlines[Any]) -> None:
    """A thousand items with one limit cost one timer, not a thousand."""
    for item in range(1000):
        deadlines.add(item, 5.0)

    assert [5.0] == loop.timers


def test_an_idle_limit_keeps_no_timer(
    loop: SteppedLoop, deadlines: Deadlines[Any], expired: list[tuple[float, Any]]
) -> None:
    """When nothing waits any more, no timer does; the next item starts one."""
    deadlines.add("a", 5.0)
    loop.advance(60.0)
    idle = loop.timers

    deadlines.add("b", 5.0)
    busy = loop.timers
    loop.advance(60.0)

    assert ([], [65.0]) == (idle, busy)
    assert [(5.0, "a"), (65.0, "b")] == expired


def test_a_discarded_item_is_not_kept(loop: SteppedLoop, deadlines: Deadlines[Any]) -> None:
    """What was discarded may be freed long before its limit is over."""
    item = Item()
    gone = weakref.ref(item)
    deadlines.add(item, 3600.0)

    deadlines.discard(item, 3600.0)
    del item
    gc.collect()

    assert gone() is None


def test_nothing_expires_after_close(
    loop: SteppedLoop, deadlines: Deadlines[Any], expired: list[tuple[float, Any]]
) -> None:
    """Closing stops every timer and forgets every item."""
    deadlines.add("a", 1.0)
    deadlines.add("b", 2.0)

    deadlines.close()

    assert [] == loop.timers
    loop.advance(60.0)
    assert [] == expired


def test_an_expiry_may_discard_and_add(loop: SteppedLoop) -> None:
    """What is called at an expiry may end other items and begin new ones."""
    expired: list[tuple[float, str]] = []

    def expire(item: str) -> None:
        expired.append((loop.now, item))
        own.discard("second", 10.0)
        if item == "first":
            own.add("third", 10.0)

    own: Deadlines[str] = Deadlines(loop, expire)
    own.add("first", 10.0)
    loop.advance(1.0)
    own.add("second", 10.0)

    loop.advance(60.0)

    assert [(10.0, "first"), (20.0, "third")] == expired
