"""Several processes work on one file at once, and some of them are killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.backends.sqlite.conftest import (
    PATIENCE,
    OtherProcess,
    SourceFactory,
    bodies,
    claim,
    make_source,
    outgoing,
    until,
)

Start = Callable[..., Awaitable[OtherProcess]]


async def test_producers_and_workers_in_many_processes_lose_and_double_nothing(
    open_source: SourceFactory, start: Start
) -> None:
    """Of three processes that send and two that work, each message reaches exactly one worker, once."""
    workers = [await start("work") for _ in range(2)]
    producers = [await start("produce", f"p{number}", 200, 1 + number * 9) for number in range(3)]

    sent = [name for producer in producers for name in await producer.rest()]
    watcher = await open_source()

    async def is_empty() -> bool:
        stats = await watcher.stats()
        return not stats.ready + stats.in_flight

    await until(is_empty)
    received = [body for worker in workers for body in await worker.finish()]

    assert [0] * 5 == [process.code for process in (*producers, *workers)]
    assert 600 == len(sent)
    assert Counter(sent) + Counter({"ready": 2}) == Counter(received)


async def test_many_processes_may_make_the_file_at_once(open_source: SourceFactory, start: Start) -> None:
    """Six processes open a file that doesn't exist yet at the same moment: all succeed, and nothing is lost."""
    producers = [await start("produce", f"p{number}", 3, 1) for number in range(6)]

    sent = [name for producer in producers for name in await producer.rest()]

    assert [0] * 6 == [producer.code for producer in producers]
    assert 18 == len(sent)
    assert Counter(sent) == Counter(bodies(await claim(await open_source(), 18)))


async def test_a_killed_workers_messages_come_back(open_source: SourceFactory, start: Start) -> None:
    """What a process held when it was killed comes back after its lease, as a second attempt after one crash."""
    source = await open_source()
    await source.send(outgoing("a", "b", "c"))
    holder = await start("hold", 2, "0.5s")
    assert "claimed" == await holder.line()
    await holder.kill()
    rest = await source.receive(10, 0)

    returned = await claim(source, 2)

    assert ["c"] == bodies(rest)
    assert [("a", 2, 1), ("b", 2, 1)] == [(item.body.decode(), item.attempt, item.crashes) for item in returned]


async def test_what_comes_back_is_found_by_a_worker_that_waits(open_source: SourceFactory, start: Start) -> None:
    """A lease that runs out while another worker waits ends its wait, though nobody is left to wake it."""
    source = await open_source()
    await source.send(outgoing("a"))
    holder = await start("hold", 1, "0.5s")
    assert "claimed" == await holder.line()
    began = time.monotonic()
    await holder.kill()

    received = await source.receive(1, PATIENCE)

    assert ["a"] == bodies(received)
    assert time.monotonic() - began < PATIENCE / 2


async def test_every_send_that_returned_survives_a_kill(open_source: SourceFactory, start: Start) -> None:
    """A producer killed while it sends has lost nothing that it was told is accepted, and doubled nothing."""
    producer = await start("flood")
    told = [await producer.line() for _ in range(100)]
    told += await producer.kill()

    received = bodies(await claim(await open_source(), len(told) + 7, within=0))

    assert set(told) <= set(received)
    assert len(set(received)) == len(received)
    assert 0 == len(received) % 7, "part of a send was accepted"


async def test_a_second_worker_gets_what_the_first_has_not_claimed(path: Path, start: Start) -> None:
    """A process that holds messages blocks neither producers nor workers of other processes."""
    source = make_source(path)
    await source.open()
    await source.send(outgoing("held"))
    holder = await start("hold", 1, "60s")
    assert "claimed" == await holder.line()

    await source.send(outgoing("free"))
    received = await source.receive(10, PATIENCE)
    await source.close()

    assert ["free"] == bodies(received)
