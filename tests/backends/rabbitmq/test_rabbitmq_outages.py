"""What a killed, frozen or starved broker does to messages, and to those who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import pytest

from qbridge import Settled, SourceFull, SourceMisconfigured, SourceUnavailable
from qbridge_rabbitmq import RabbitSource
from tests.backends.rabbitmq.amqp import AmqpClient
from tests.backends.rabbitmq.conftest import SourceFactory
from tests.backends.rabbitmq.steps import claim, outgoing, promptly
from tests.support.rabbitmq_server import RabbitServer

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def starved_server(rough_server: RabbitServer) -> Iterator[RabbitServer]:
    """A server that a test may deprive of its memory; it has it back afterwards."""
    yield rough_server
    feed(rough_server)


def starve(server: RabbitServer) -> None:
    """Let the broker believe that it is short of memory: it then takes nothing from those who publish."""
    server.ctl("set_vm_memory_high_watermark", "0.0000001")


def feed(server: RabbitServer) -> None:
    """Let it have its memory back."""
    server.ctl("set_vm_memory_high_watermark", "0.8")


async def received_until_empty(source: RabbitSource) -> list[bytes]:
    """Receive and acknowledge until nothing comes for a second; return the bodies."""
    bodies: list[bytes] = []
    while deliveries := await source.receive(500, 1):
        bodies += [delivery.body for delivery in deliveries]
        await source.settle([delivery.ack() for delivery in deliveries])
    return bodies


async def test_a_starved_broker_refuses_messages_and_settles(
    starved_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """Without memory sending is SourceFull in seconds; claiming and acknowledging go on, retries come in the end."""
    source = await open_source(starved_server, queue)
    await source.send(outgoing(b"done", b"retried", b"claimed"))
    deliveries = {delivery.body: delivery for delivery in await claim(source, 2)}
    await asyncio.to_thread(starve, starved_server)
    began = time.monotonic()

    with pytest.raises(SourceFull, match="takes no messages"):
        await source.send(outgoing(b"late"))
    with pytest.raises(SourceFull, match="takes no messages"):
        await source.send(outgoing(b"never"))
    outcomes = await source.settle([deliveries[b"retried"].retry(0, "failed"), deliveries[b"done"].ack()])
    [claimed] = await claim(source, 1)
    await source.settle([claimed.ack()])
    took = time.monotonic() - began
    await asyncio.to_thread(feed, starved_server)
    returned = {delivery.body: delivery for delivery in await claim(source, 2)}
    await source.settle([delivery.ack() for delivery in returned.values()])
    await source.close()
    await source.open()

    assert [Settled.DONE] * 2 == list(outcomes)
    assert took < 10
    # What was on its way when the memory ran out is taken when there is some again; what came later never was.
    assert {b"retried", b"late"} == set(returned)
    assert (2, 0) == (returned[b"retried"].attempt, returned[b"retried"].crashes)
    assert [] == list(await source.receive(1, 0.3))


async def test_a_retry_that_a_starved_broker_never_took_is_not_lost(
    starved_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A broker that is killed before it has read the copy still has the original, as nobody has acknowledged it."""
    source = await open_source(starved_server, queue)
    await source.send(outgoing(b"kept"))
    [delivery] = await claim(source, 1)
    await asyncio.to_thread(starve, starved_server)

    outcomes = await source.settle([delivery.retry(0)])
    await asyncio.to_thread(starved_server.kill)
    await asyncio.to_thread(starved_server.start)
    await promptly(source.close(), 3)
    await source.open()
    [returned] = await claim(source, 1)

    assert [Settled.DONE] == list(outcomes)
    assert (b"kept", 2, 1) == (returned.body, returned.attempt, returned.crashes)


async def test_a_killed_broker_has_all_it_confirmed(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """Killed while messages stream in, it has every one that `send` returned for when it is started again."""
    source = await open_source(rough_server, queue)
    await source.send(outgoing(b"first"))
    confirmed: list[bytes] = [b"first"]

    async def produce() -> None:
        number = 0
        while True:
            bodies = [b"%d" % (number + place) for place in range(50)]
            await source.send(outgoing(*bodies))
            confirmed.extend(bodies)
            number += 50

    producing = asyncio.ensure_future(produce())
    await asyncio.wait([producing], timeout=0.7)
    await asyncio.to_thread(rough_server.kill)
    with pytest.raises(SourceUnavailable):
        await promptly(producing)
    await asyncio.to_thread(rough_server.start)
    await source.close()
    await source.open()
    present = await received_until_empty(source)

    assert len(confirmed) > 500
    assert set(confirmed) <= set(present)


async def test_a_queue_that_was_just_made_is_safe_when_send_returns(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A broker that is killed right after the first `send` to a new queue, and to a new delay queue, has both."""
    source = await open_source(rough_server, queue)
    await source.send([*outgoing(b"now"), *outgoing(b"later", delay=0.1)])

    await asyncio.to_thread(rough_server.kill)
    await asyncio.to_thread(rough_server.start)
    await source.close()
    await source.open()

    assert {b"now", b"later"} == {delivery.body for delivery in await claim(source, 2)}


async def test_a_send_is_not_told_to_be_accepted_by_a_broker_that_is_killed_meanwhile(
    rough_server: RabbitServer, queue: str, open_source: SourceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A send waits until its new queue would survive a kill; one that comes before leaves the outcome unknown."""
    monkeypatch.setattr("qbridge_rabbitmq.delays.GROWN_UP", 10.0)
    source = await open_source(rough_server, queue)
    onlooker = await open_source(rough_server, queue)

    sending = asyncio.create_task(source.send(outgoing(b"later", delay=300)))
    async with asyncio.timeout(5):
        while not (await onlooker.stats()).delayed:  # noqa: ASYNC110  # the broker can't set an event
            await asyncio.sleep(0.02)
    await asyncio.to_thread(rough_server.kill)
    await asyncio.to_thread(rough_server.start)

    with pytest.raises(SourceUnavailable):
        await promptly(sending)


async def test_a_retry_into_a_new_delay_queue_survives_a_kill(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A broker that is killed right after a retry has the original or its copy, though the delay queue is lost."""
    source = await open_source(rough_server, queue)
    await source.send(outgoing(b"retried"))
    [delivery] = await claim(source, 1)
    await source.settle([delivery.retry(0.2)])

    await asyncio.to_thread(rough_server.kill)
    await asyncio.to_thread(rough_server.start)
    await source.close()
    await source.open()

    assert b"retried" in {delivery.body for delivery in await claim(source, 1)}


async def test_a_frozen_broker_is_noticed_by_its_silence(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A broker that keeps its connections and says nothing is given up after the heartbeat; closing takes seconds."""
    source = await open_source(rough_server, queue, heartbeat=1, command_timeout=3)
    await source.send(outgoing(b"held"))
    await claim(source, 1)
    rough_server.freeze()
    try:
        with pytest.raises(SourceUnavailable):
            await promptly(source.receive(1, 60), 15)
        with pytest.raises(SourceUnavailable):
            await promptly(source.send(outgoing(b"x")), 15)
        began = time.monotonic()
        await source.close()
        took = time.monotonic() - began
    finally:
        rough_server.thaw()

    assert took < 2.5


async def test_closing_beside_a_frozen_broker_leaves_no_consumer(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A source that could not say good-bye has cut its connection: what it held goes to others at once."""
    source = await open_source(rough_server, queue, heartbeat=60)
    await source.send(outgoing(*[b"x"] * 50))
    await claim(source, 10)
    rough_server.freeze()
    try:
        await promptly(source.close(), 2.5)
    finally:
        rough_server.thaw()
    other = await open_source(rough_server, queue)

    assert 50 == len(await claim(other, 50))


async def test_a_dropped_publishing_connection_is_made_again(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A publishing connection that broke while it was idle costs nobody anything: the next send makes another."""
    source = await open_source(rough_server, queue)
    await source.send(outgoing(b"before"))
    listed = await asyncio.to_thread(rough_server.ctl, "list_connections", "pid", "client_properties")
    [pid] = [line.split()[0] for line in listed.splitlines() if f"{queue} publishing" in line]
    await asyncio.to_thread(rough_server.ctl, "close_connection", pid, "ended by a test")

    await source.send(outgoing(b"after"))

    assert [b"before", b"after"] == [delivery.body for delivery in await claim(source, 2)]


async def test_a_full_queue_refuses_and_keeps_what_it_has(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """At its length limit a queue refuses messages as SourceFull; what was taken before is there."""
    source = await open_source(rough_server, queue, arguments={"x-max-length": 5})

    async def fill() -> None:
        for _ in range(20):  # a quorum queue may take a few more than its limit
            await source.send(outgoing(b"x"))

    with pytest.raises(SourceFull, match="length limit"):
        await fill()

    assert 5 <= (await source.stats()).ready < 20


async def test_what_comes_back_to_a_full_queue_waits_for_room(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """Retries and releases for which a full queue has no room are neither lost nor counted as crashes."""
    source = await open_source(rough_server, queue, arguments={"x-max-length": 3})
    await source.send(outgoing(b"retried", b"released"))
    deliveries = {delivery.body: delivery for delivery in await claim(source, 2)}

    async def fill() -> None:
        for _ in range(30):  # a quorum queue may take a few more than its limit
            await source.send(outgoing(b"other"))

    with pytest.raises(SourceFull):
        await fill()
    outcomes = await source.settle([deliveries[b"retried"].retry(0, "x"), deliveries[b"released"].release()])
    returned: dict[bytes, tuple[int, int]] = {}
    while returned.keys() < {b"retried", b"released"}:
        [delivery] = await claim(source, 1)
        await source.settle([delivery.ack()])
        if delivery.body != b"other":
            returned[delivery.body] = (delivery.attempt, delivery.crashes)

    assert [Settled.DONE] * 2 == list(outcomes)
    assert {b"retried": (2, 0), b"released": (1, 0)} == returned


async def test_a_queue_that_vanished_is_told_by_the_sender(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A message for a queue that isn't there is not confirmed away: the sender hears of it, and opening repairs it."""
    source = await open_source(rough_server, queue)
    with AmqpClient(rough_server.port) as client:
        client.delete(queue)

    with pytest.raises(SourceUnavailable, match=f"no queue '{queue}' any more"):
        await source.send(outgoing(b"lost?"))
    await source.close()
    await source.open()
    await source.send(outgoing(b"not lost"))

    assert [b"not lost"] == [delivery.body for delivery in await claim(source, 1)]


async def test_a_message_beyond_the_broker_s_limit_is_told(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """What the broker will never take is a configuration error with both sizes, and the next message goes through."""
    source = await open_source(rough_server, queue)

    with pytest.raises(SourceMisconfigured, match="larger than"):
        await source.send(outgoing(b"x" * 2_000_000))
    await source.send(outgoing(b"small"))
    [delivery] = await claim(source, 1)

    assert b"small" == delivery.body


async def test_the_order_of_a_large_batch_is_kept(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """Thousands of messages of one call arrive in its order, with thousands of confirms on their way."""
    source = await open_source(rough_server, queue)
    bodies = [b"%d" % number for number in range(3000)]

    await source.send(outgoing(*bodies))
    received = await claim(source, 3000)

    assert bodies == [delivery.body for delivery in received]


async def test_an_abandoned_opening_leaves_no_connection(
    rough_server: RabbitServer, queue: str, open_source: SourceFactory
) -> None:
    """Openings that were cancelled at any point leave no connection on the broker."""
    source = await open_source(rough_server, queue)
    await source.close()
    for turns in range(12):
        opening = asyncio.ensure_future(source.open())
        await asyncio.sleep(turns / 500)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        await source.close()

    listed = await asyncio.to_thread(rough_server.ctl, "list_connections", "client_properties")

    assert queue not in listed


async def test_an_acknowledgement_that_nobody_reads_is_not_done(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A frozen broker's socket takes acknowledgements: settling them fails, and says so again after reconnecting."""
    source = await open_source(rough_server, queue, command_timeout=1)
    await source.send(outgoing(b"held", b"done"))
    held, done = await claim(source, 2)
    before = await promptly(source.settle([done.ack()]))
    rough_server.freeze()
    try:
        with pytest.raises(SourceUnavailable, match="acknowledging: no answer within the time limit"):
            await promptly(source.settle([held.ack()]), 5)
        with pytest.raises(SourceUnavailable):
            await promptly(source.receive(1, 1), 5)
        await source.close()
    finally:
        rough_server.thaw()
    await source.open()

    assert [Settled.DONE] == list(before)
    assert [Settled.LOST] == list(await source.settle([held.ack()]))
