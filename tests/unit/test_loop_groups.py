"""LoopGroup: how a batch is dealt to loop threads, and what there is no room for."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator
from time import monotonic

import pytest

from qbridge.loops import LoopGroup
from tests.support.executor_bench import coroutine, waiting
from tests.support.jobs import make_job
from tests.support.loop_bench import LoopBench, hold
from tests.support.waiting import PATIENCE, Latch


@pytest.fixture
async def bench() -> AsyncIterator[LoopBench]:
    """A maker of loop threads."""
    async with LoopBench() as bench:
        yield bench


async def test_a_group_deals_evenly_and_in_order(bench: LoopBench) -> None:
    """Each of four threads gets a quarter of a batch, in the order of the batch."""
    group = LoopGroup("loop", [await bench.start() for _ in range(4)])
    order: dict[str, list[int]] = {thread.name: [] for thread in group.threads}

    async def handler(number: int) -> None:
        order[threading.current_thread().name].append(number)

    jobs = [make_job(handler, number) for number in range(100)]
    left = group.submit(jobs)
    await bench.until_ended(jobs)

    assert [] == list(left)
    assert [25, 25, 25, 25] == [len(numbers) for numbers in order.values()]
    assert [sorted(numbers) for numbers in order.values()] == list(order.values())


async def test_a_group_takes_no_more_than_it_has_room_for(bench: LoopBench) -> None:
    """What can't start comes back, in order; the room of each thread is used to the last place."""
    group = LoopGroup("loop", [await bench.start(concurrency=count) for count in (1, 5)])
    latches = [Latch() for _ in range(9)]
    jobs = [make_job(functools.partial(waiting, latch)) for latch in latches]
    before = (group.capacity, group.free, group.in_flight)

    left = group.submit(jobs)

    assert ((6, 6, 0), (6, 0, 6)) == (before, (group.capacity, group.free, group.in_flight))
    assert jobs[6:] == list(left)
    assert jobs[6:] == list(group.submit(left))
    assert [1, 5] == [thread.in_flight for thread in group.threads]


async def test_a_group_of_one_takes_no_more_than_it_has_room_for(bench: LoopBench) -> None:
    """What can't start in the only thread comes back, and so does all of it once the thread is stopped."""
    thread = await bench.start(concurrency=2)
    group = LoopGroup("loop", [thread])
    jobs = [make_job(coroutine, number) for number in range(3)]

    first, second = group.submit(jobs), group.submit(jobs[2:])
    await bench.until_ended(jobs[:2])
    await thread.stop(PATIENCE)
    third = group.submit(jobs[2:])

    assert [jobs[2:]] * 3 == [list(left) for left in (first, second, third)]
    assert jobs[:2] == bench.ended


async def test_a_group_passes_over_a_blocked_thread(bench: LoopBench) -> None:
    """While others have room, a loop that has missed its heartbeats gets nothing; then it gets the rest."""
    group = LoopGroup("loop", [await bench.start(concurrency=5) for _ in range(2)])
    blocked, free = group.threads
    _, opened = await hold(blocked)
    blocked.last_beat = monotonic() - 60.0  # as if it had been blocked for long
    jobs = [make_job(functools.partial(waiting, Latch())) for _ in range(7)]

    left = group.submit(jobs[:4])
    first = (blocked.in_flight, free.in_flight)
    left = [*left, *group.submit(jobs[4:])]
    second = (blocked.in_flight, free.in_flight)
    opened.set()

    assert [] == left
    assert ((1, 4), (3, 5)) == (first, second)
