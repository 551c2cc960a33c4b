"""What the memory backend promises beyond the contract: how sources share queues, and what they hold."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator, Sequence

import pytest
from pydantic import ValidationError

from qbridge import Delivery, Outgoing, SourceFull
from qbridge_memory import ManualClock, MemoryBroker, MemoryOptions, MemorySource, backend, make_backend


def outgoing(*bodies: str, delay: float = 0.0) -> list[Outgoing]:
    """Return a message for each body, with the body for its id."""
    return [Outgoing(body=body.encode(), message_id=body, delay=delay) for body in bodies]


def bodies(deliveries: Sequence[Delivery]) -> list[str]:
    """Return the bodies of deliveries as text."""
    return [delivery.body.decode() for delivery in deliveries]


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test moves."""
    return ManualClock()


@pytest.fixture
def broker(clock: ManualClock) -> MemoryBroker:
    """A broker on that clock."""
    return MemoryBroker(clock=clock)


async def open_source(broker: MemoryBroker, name: str = "q", *, lease: float = 30.0, room: int = 1000) -> MemorySource:
    """Return an open source of a queue of `broker`."""
    source = MemorySource(name, MemoryOptions(lease=lease, max_messages=room), broker=broker)
    await source.open()
    return source


async def test_sources_of_one_name_share_a_queue(broker: MemoryBroker) -> None:
    """Two sources that name one queue of a broker see the same messages; another name is another queue."""
    sender, worker, stranger = [await open_source(broker, name) for name in ("q", "q", "other")]

    await sender.send(outgoing("a"))

    assert [] == await stranger.receive(1, 0)
    assert ["a"] == bodies(await worker.receive(1, 0))


async def test_sources_without_a_broker_share_nothing() -> None:
    """A source that is made without a broker has a queue of its own."""
    one, other = MemorySource("q"), MemorySource("q")
    await one.open()
    await other.open()

    await one.send(outgoing("a"))

    assert [] == await other.receive(1, 0)


async def test_sources_of_one_options_object_share_a_queue() -> None:
    """What one source sends another of the same configuration receives, also when the first was closed meanwhile."""
    options = MemoryOptions()
    sender, worker = backend.create("shared", options), backend.create("shared", options)
    await sender.open()
    await sender.send(outgoing("a"))
    await sender.close()

    await worker.open()

    assert ["a"] == bodies(await worker.receive(1, 0))


async def test_another_options_object_has_queues_of_its_own() -> None:
    """What one program or test leaves in a queue is not found by the next, though the queue has the same name."""
    source = backend.create("q", MemoryOptions())
    await source.open()
    await source.send(outgoing("left over"))

    other = backend.create("q", MemoryOptions())
    await other.open()

    assert [] == await other.receive(1, 0)


async def test_a_broker_keeps_a_queue_that_no_source_names(broker: MemoryBroker) -> None:
    """A broker that somebody holds keeps the messages of its queues."""
    create = make_backend(broker).create
    source = create("kept", MemoryOptions())
    await source.open()
    await source.send(outgoing("a"))
    del source
    gc.collect()

    source = create("kept", MemoryOptions())
    await source.open()

    assert ["a"] == bodies(await source.receive(1, 0))


async def test_a_send_in_another_thread_ends_a_wait(broker: MemoryBroker) -> None:
    """A producer on another thread's event loop wakes a worker that waits."""
    worker = await open_source(broker)
    receiving = asyncio.create_task(worker.receive(10, 30))
    await asyncio.sleep(0)

    async def produce() -> None:
        sender = await open_source(broker)
        await sender.send(outgoing("from afar"))

    thread = threading.Thread(target=asyncio.run, args=(produce(),))
    thread.start()
    async with asyncio.timeout(10):
        received = await receiving
    thread.join()

    assert ["from afar"] == bodies(received)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that interrupt one another as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


async def test_threads_take_each_message_once(eager_threads: None) -> None:
    """Workers on several threads share a queue without losing or doubling a message."""
    broker = MemoryBroker()
    sender = await open_source(broker, room=20_000)
    await sender.send(outgoing(*map(str, range(20_000))))
    taken: list[list[str]] = []

    async def work() -> None:
        worker = await open_source(broker)
        mine: list[str] = []
        while deliveries := await worker.receive(50, 0):
            mine += bodies(deliveries)
            await worker.settle([delivery.ack() for delivery in deliveries])
        taken.append(mine)

    threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))

    assert sorted(map(str, range(20_000))) == sorted(body for mine in taken for body in mine)


async def test_a_loop_that_died_under_a_wait_stops_nobody(broker: MemoryBroker) -> None:
    """A send works though a receive still waits on an event loop that was closed."""
    loop = asyncio.new_event_loop()

    async def wait_for_ever() -> None:
        worker = await open_source(broker)
        await worker.receive(1, 3600)

    waiting = loop.create_task(wait_for_ever())
    await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0.05, loop))
    loop.close()
    sender = await open_source(broker)

    await sender.send(outgoing("a"))

    assert ["a"] == bodies(await sender.receive(1, 0))
    assert not waiting.done()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be left pending


async def test_a_full_queue_refuses_the_whole_batch(broker: MemoryBroker) -> None:
    """A send that would exceed `max_messages`, dead letters included, raises SourceFull and adds nothing."""
    source = await open_source(broker, room=4)
    await source.send(outgoing("dead", "in flight", "ready"))
    dead, _ = await source.receive(2, 0)
    await source.settle([dead.dead_letter("rejected")])

    with pytest.raises(SourceFull, match="'q' holds 3 messages and refuses 2 more: its max_messages is 4"):
        await source.send(outgoing("b", "c"))

    stats = await source.stats()
    assert (1, 1, 1) == (stats.ready, stats.in_flight, stats.dead)


async def test_a_full_queue_takes_messages_again(broker: MemoryBroker) -> None:
    """Room that an acknowledged message leaves can be used."""
    source = await open_source(broker, room=1)
    await source.send(outgoing("a"))
    [delivery] = await source.receive(1, 0)
    await source.settle([delivery.ack()])

    await source.send(outgoing("b"))

    assert ["b"] == bodies(await source.receive(1, 0))


async def test_messages_come_back_to_their_old_places(broker: MemoryBroker, clock: ManualClock) -> None:
    """Released and lapsed messages stand before the rest, in the order of sending, however they came back."""
    source, dying = await open_source(broker), await open_source(broker, lease=5)
    await source.send(outgoing(*"abcdef"))
    a, b = await source.receive(2, 0)
    await dying.receive(1, 0)
    [d] = await source.receive(1, 0)

    await source.settle([d.release()])
    await source.settle([b.release()])
    clock.advance(5)
    await source.settle([a.release()])

    assert list("abcdef") == bodies(await source.receive(10, 0))


async def test_leases_of_different_lengths_end_in_their_own_time(broker: MemoryBroker, clock: ManualClock) -> None:
    """A long lease that began first holds up no shorter one."""
    patient, hasty = await open_source(broker, lease=60), await open_source(broker, lease=5)
    await patient.send(outgoing("held", "dropped"))
    await patient.receive(1, 0)
    await hasty.receive(1, 0)

    clock.advance(5)

    assert ["dropped"] == bodies(await patient.receive(10, 0))


async def test_a_renewed_lease_lets_older_ones_end(broker: MemoryBroker, clock: ManualClock) -> None:
    """A delivery that is kept alive holds up no other of the same worker."""
    source = await open_source(broker, lease=5)
    await source.send(outgoing("kept", "dropped"))
    kept, _ = await source.receive(2, 0)

    clock.advance(3)
    await source.keep_alive([kept])
    clock.advance(3)

    assert ["dropped"] == bodies(await source.receive(10, 0))


async def test_a_receive_that_waits_sees_a_lease_end() -> None:
    """A lease that runs out ends the wait of another source, also when it began after that wait."""
    broker = MemoryBroker()
    worker, dying = await open_source(broker), await open_source(broker, lease=0.2)
    receiving = asyncio.create_task(worker.receive(1, 60))
    await asyncio.sleep(0.01)
    await dying.send(outgoing("a"))
    claimed = await dying.receive(1, 0)  # before the one that waits has its turn
    assert ["a"] == bodies(claimed)

    async with asyncio.timeout(10):
        received = await receiving

    assert ["a"] == bodies(received)
    assert 1 == received[0].crashes


async def test_a_lapsed_lease_that_nobody_noticed_still_holds(broker: MemoryBroker, clock: ManualClock) -> None:
    """A settlement that is late, but not too late, saves running a message twice."""
    source = await open_source(broker, lease=5)
    await source.send(outgoing("a"))
    [delivery] = await source.receive(1, 0)

    clock.advance(6)

    assert ["done"] == await source.settle([delivery.ack()])


async def test_a_moved_clock_ends_a_wait(broker: MemoryBroker, clock: ManualClock) -> None:
    """A receive that waits looks again when a ManualClock is moved."""
    source = await open_source(broker)
    await source.send(outgoing("due", delay=1000))
    receiving = asyncio.create_task(source.receive(1, 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    clock.advance(1000)
    async with asyncio.timeout(10):
        received = await receiving

    assert ["due"] == bodies(received)


def test_a_clock_does_not_run_backwards(clock: ManualClock) -> None:
    """A negative step is an error."""
    with pytest.raises(ValueError, match=r"advance\(-1\)"):
        clock.advance(-1)


async def test_the_age_of_a_delayed_message_begins_when_it_is_due(broker: MemoryBroker, clock: ManualClock) -> None:
    """A message that was delayed has waited since its time, not since it was sent or first looked at."""
    source = await open_source(broker)
    await source.send(outgoing("a", delay=5))

    clock.advance(8)

    assert 3 == (await source.stats()).oldest_age


async def test_a_receive_gives_other_tasks_their_turn(broker: MemoryBroker) -> None:
    """A worker that always finds messages doesn't keep its event loop to itself."""
    source = await open_source(broker)
    await source.send(outgoing(*map(str, range(100))))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    for _ in range(100):
        await source.receive(1, 1)
    counting.cancel()

    assert turns >= 99


async def test_one_id_for_two_messages_makes_two_dead_letters(broker: MemoryBroker) -> None:
    """Dead letters whose sender used an id twice can be told apart."""
    source = await open_source(broker)
    await source.send(outgoing("same", "same"))
    deliveries = await source.receive(2, 0)
    await source.settle([delivery.dead_letter("rejected") for delivery in deliveries])

    first, second = await source.dead_letters()

    assert first.message_id != second.message_id
    assert 1 == await source.purge([second.message_id])


async def test_headers_are_the_queues_own(broker: MemoryBroker) -> None:
    """A sender that goes on using its mapping changes no message that was sent."""
    source = await open_source(broker)
    headers = {"trace": "1"}
    await source.send([Outgoing(body=b"a", message_id="a", headers=headers)])

    headers["trace"] = "2"

    [delivery] = await source.receive(1, 0)
    assert {"trace": "1"} == delivery.headers


async def test_waiting_leaves_no_trace(broker: MemoryBroker) -> None:
    """A receive that timed out or was cancelled is not remembered by the queue."""
    source = await open_source(broker)
    queue = broker.queue("q")

    await source.receive(1, 0.01)
    receiving = asyncio.create_task(source.receive(1, 60))
    await asyncio.sleep(0.01)
    assert len(queue._bells) == 1
    receiving.cancel()
    await asyncio.wait([receiving])

    assert set() == queue._bells


@pytest.mark.parametrize("options", [{"lease": 0}, {"lease": "soon"}, {"max_messages": 0}, {"capacity": 1}])
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    """A lease of nothing, a queue without room and unknown keys are errors."""
    with pytest.raises(ValidationError):
        MemoryOptions.model_validate(options)


def test_options_are_read_as_people_write_them() -> None:
    """A lease may be written as a duration."""
    assert 90.0 == MemoryOptions.model_validate({"lease": "1.5m"}).lease
