"""Mailbox: order, one wake-up for a batch, and nothing lost or taken twice however many threads fill it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qbridge.mailbox import Mailbox
from tests.support.waiting import Latch, Watch


class Reader:
    """Keeps what a mailbox hands over, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.watch = Watch()

    def receive(self, batch: list[int]) -> None:
        """Take a batch."""
        self.batches.append(batch)
        self.watch.changed()

    @property
    def items(self) -> list[int]:
        """All items so far."""
        return [item for batch in self.batches for item in batch]

    async def until(self, count: int) -> None:
        """Wait until that many items have come."""
        await self.watch.until(lambda: len(self.items) >= count)


@pytest.fixture
async def reader() -> Reader:
    """A reader on the test's loop."""
    return Reader()


@pytest.fixture
def wakeups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that woke the test's loop, once for each time."""
    woken: list[str] = []
    wake = asyncio.BaseEventLoop.call_soon_threadsafe

    def counted(loop: asyncio.BaseEventLoop, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        woken.append(threading.current_thread().name)
        return wake(loop, callback, *args, context=context)

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", counted)
    return woken


async def test_items_come_in_the_order_they_were_put(reader: Reader) -> None:
    """One by one or many at once: what is put first comes first."""
    box = Mailbox(asyncio.get_running_loop(), reader.receive)

    box.put(1)
    box.put_many([2, 3])
    box.put(4)
    await reader.until(4)

    assert [1, 2, 3, 4] == reader.items


async def test_a_batch_wakes_the_loop_once(reader: Reader, wakeups: list[str]) -> None:
    """The first item in an empty box wakes the loop; those that follow before it looks ride along."""
    box = Mailbox(asyncio.get_running_loop(), reader.receive)

    for item in range(100):
        box.put(item)
    box.put_many(range(100, 200))
    await reader.until(200)

    assert 1 == len(wakeups)
    assert [list(range(200))] == reader.batches


async def test_an_emptied_box_wakes_the_loop_again(reader: Reader, wakeups: list[str]) -> None:
    """An item that comes after the loop has looked is not left lying."""
    box = Mailbox(asyncio.get_running_loop(), reader.receive)

    for item in range(3):
        box.put(item)
        await reader.until(item + 1)

    assert 3 == len(wakeups)
    assert [[0], [1], [2]] == reader.batches


async def test_a_large_batch_takes_several_turns(reader: Reader) -> None:
    """At most 256 items are handed over in one turn, and other work of the loop has its turn between."""
    loop = asyncio.get_running_loop()
    box = Mailbox(loop, reader.receive)
    seen_between: list[int] = []

    box.put_many(range(600))
    loop.call_soon(loop.call_soon, lambda: seen_between.append(len(reader.items)))
    await reader.until(600)

    assert [256, 256, 88] == [len(batch) for batch in reader.batches]
    assert list(range(600)) == reader.items
    assert 0 < seen_between[0] < 600


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads are switched a thousand times more often, so that what can come between two steps does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
async def test_nothing_is_lost_between_threads(reader: Reader) -> None:
    """Four threads put 50 000 items; each comes once, those of one thread in their order."""
    threads, each = 4, 12_500
    box = Mailbox(asyncio.get_running_loop(), reader.receive)
    start = Latch()

    def fill(first: int) -> None:
        start.block()
        position = first
        while position < first + each:
            if position % 7:
                assert box.put(position)
                position += 1
            else:
                count = min(3, first + each - position)
                assert box.put_many(range(position, position + count))
                position += count

    fillers = [threading.Thread(target=fill, args=(number * each,)) for number in range(threads)]
    for filler in fillers:
        filler.start()
    start.set()
    await reader.until(threads * each)
    for filler in fillers:
        filler.join()

    items = reader.items
    assert list(range(threads * each)) == sorted(items)
    for number in range(threads):
        own = [item for item in items if item // each == number]
        assert own == sorted(own)


async def test_a_recalled_item_does_not_come(reader: Reader, wakeups: list[str]) -> None:
    """What is taken back is gone from the box; what is put afterwards comes by the same wake-up."""
    box = Mailbox(asyncio.get_running_loop(), reader.receive)
    box.put_many([1, 2])

    recalled = box.recall()
    box.put(3)
    await reader.until(1)

    assert [1, 2] == recalled
    assert [[3]] == reader.batches
    assert 1 == len(wakeups)


async def test_what_waits_can_be_looked_at(reader: Reader) -> None:
    """Whoever looks into the box takes nothing out of it."""
    box = Mailbox(asyncio.get_running_loop(), reader.receive)
    box.put_many([1, 2])

    waiting = box.waiting()
    await reader.until(2)

    assert [1, 2] == waiting
    assert ([[1, 2]], []) == (reader.batches, box.waiting())


async def test_an_item_after_a_fruitless_wakeup_comes(reader: Reader) -> None:
    """A loop that woke for items that had been recalled wakes again for the next one."""
    loop = asyncio.get_running_loop()
    box = Mailbox(loop, reader.receive)
    box.put(1)
    box.recall()
    looked = loop.create_future()
    loop.call_soon(lambda: looked.set_result(None))
    await looked

    box.put(2)
    await reader.until(1)

    assert [[2]] == reader.batches


async def test_a_closed_box_takes_nothing(reader: Reader) -> None:
    """Closing returns what the loop has not received; from then on every put is refused, and keeps nothing."""
    box = Mailbox(asyncio.get_running_loop(), reader.receive)
    box.put_many([1, 2])

    left = box.close()

    assert [1, 2] == left
    assert not box.put(3)
    assert not box.put_many([4])
    assert [] == box.close()


def test_a_closed_loop_is_a_closed_box() -> None:
    """A box whose loop is gone refuses the item instead of keeping it for nobody."""
    loop = asyncio.new_event_loop()
    box: Mailbox[int] = Mailbox(loop, lambda batch: None)
    loop.close()

    assert not box.put(1)
    assert not box.put_many([2, 3])
    assert [] == box.recall()
