"""What a worker holds, what it doesn't, and what counts as a crash."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qbridge import Settled, SourceError, SourceUnavailable
from qbridge_rabbitmq.link import Channel
from tests.backends.rabbitmq.amqp import AmqpClient
from tests.backends.rabbitmq.conftest import SourceFactory
from tests.backends.rabbitmq.steps import claim, outgoing, promptly, until
from tests.support.rabbitmq_server import RabbitServer

pytestmark = pytest.mark.rabbitmq

TYPES = pytest.mark.parametrize("queue_type", ["quorum", "classic"])


async def test_no_more_is_taken_than_was_asked_for(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """What a worker can't start stays in the queue, for other workers and for whoever counts."""
    source = await open_source(rabbitmq_server, queue)
    await source.send(outgoing(*[b"x"] * 50))

    first = await claim(source, 5)
    second = await claim(source, 3)

    assert 42 == client.count(queue)
    await source.settle([delivery.ack() for delivery in [*first, *second]])
    await source.receive(1, 0.2)
    assert 41 == client.count(queue)


async def test_room_that_nobody_asked_for_is_not_filled(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """Acknowledging makes no room for messages while the worker asks for none."""
    source = await open_source(rabbitmq_server, queue)
    await source.send(outgoing(*[b"x"] * 20))
    deliveries = await claim(source, 10)

    await source.settle([delivery.ack() for delivery in deliveries])
    await source.stats()  # answered after the broker has worked on the acknowledgements

    assert 10 == client.count(queue)


@TYPES
async def test_what_comes_between_two_receives_goes_back(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str, queue_type: str
) -> None:
    """A worker that was given less than it asked for, and asks no more, holds nothing back; nothing is counted."""
    idle = await open_source(rabbitmq_server, queue, queue_type=queue_type)
    other = await open_source(rabbitmq_server, queue, queue_type=queue_type)
    await other.send(outgoing(b"first"))
    await claim(idle, 1)
    for _ in range(3):
        assert [] == list(await idle.receive(10, 0.01))

    await other.send(outgoing(*[b"%d" % number for number in range(5)]))
    received = await claim(other, 5)

    assert [b"0", b"1", b"2", b"3", b"4"] == sorted(delivery.body for delivery in received)
    assert {(1, 0)} == {(delivery.attempt, delivery.crashes) for delivery in received}


@TYPES
async def test_cancelled_receives_count_nothing(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str, queue_type: str
) -> None:
    """Deliveries that come after their consumer was cancelled are not rejected, which the broker would count."""
    source = await open_source(rabbitmq_server, queue, queue_type=queue_type)
    await source.send(outgoing(*[b"%d" % number for number in range(200)]))

    for turns in range(40):
        receiving = asyncio.ensure_future(source.receive(50, 5))
        await asyncio.sleep(turns % 8 / 2000)
        receiving.cancel()
        [received] = await asyncio.gather(receiving, return_exceptions=True)
        if not isinstance(received, BaseException):
            await source.settle([delivery.release() for delivery in received])
        if turns % 10 == 0:
            await asyncio.sleep(0.1)  # longer than the consumer stays without a receive
    deliveries = await claim(source, 200)

    assert {b"%d" % number for number in range(200)} == {delivery.body for delivery in deliveries}
    assert {(1, 0)} == {(delivery.attempt, delivery.crashes) for delivery in deliveries}


@TYPES
async def test_a_poison_message_takes_no_bystanders_along(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str, queue_type: str
) -> None:
    """A message whose worker dies four times is counted four times; those that waited behind it never."""
    source = await open_source(rabbitmq_server, queue, queue_type=queue_type)
    await source.send(outgoing(b"poison", *[b"bystander"] * 20))

    for _ in range(4):
        while True:
            [delivery] = await claim(source, 1)
            if delivery.body == b"poison":
                break
            await source.settle([delivery.release()])
        await source.close()
        await source.open()
    deliveries = await claim(source, 21)

    crashes = {(delivery.body, delivery.attempt, delivery.crashes) for delivery in deliveries}
    assert {(b"poison", 5, 4), (b"bystander", 1, 0)} == crashes


async def test_closing_gives_back_what_nobody_has_seen(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """What was on its way to a worker that closes counts as no attempt."""
    source = await open_source(rabbitmq_server, queue)
    other = await open_source(rabbitmq_server, queue)
    await other.send(outgoing(*[b"x"] * 5))
    receiving = asyncio.ensure_future(source.receive(5, 5))
    await asyncio.sleep(0.02)
    receiving.cancel()
    await asyncio.wait([receiving])

    await source.close()
    received = await claim(other, 5) if receiving.cancelled() else []

    assert {(1, 0)} >= {(delivery.attempt, delivery.crashes) for delivery in received}


async def test_closing_at_any_point_of_a_receive_ends_it(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A receive whose source is closed, be it while it starts its consumer, ends with the contract's error."""
    source = await open_source(rabbitmq_server, queue)
    ends: list[object] = []

    for turns in range(12):
        receiving = asyncio.ensure_future(source.receive(1, 60))
        await asyncio.sleep(turns / 4000)
        await source.close()
        ends += list(await promptly(asyncio.gather(receiving, return_exceptions=True)))
        await source.open()

    assert [] == [end for end in ends if not isinstance(end, SourceError)]


async def test_acknowledgements_in_any_order_settle_just_theirs(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """Acknowledging with gaps, from the back and twice removes just those messages, and keeps the connection."""
    source = await open_source(rabbitmq_server, queue)
    await source.send(outgoing(*[b"%d" % number for number in range(10)]))
    deliveries = await claim(source, 10)

    for places in ((2,), (4, 3), (0, 1), (9, 0), (5, 2, 9)):
        outcomes = await source.settle([deliveries[place].ack() for place in places])
        assert [Settled.DONE] * len(places) == list(outcomes)
    await source.close()
    await source.open()
    left = await claim(source, 3)

    assert [b"6", b"7", b"8"] == sorted(delivery.body for delivery in left)
    assert [] == list(await source.receive(1, 0))


async def test_closing_after_many_acknowledgements_forgets_none(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """Hundreds of acknowledgements that had to go one by one are in the queue before its connection is closed."""
    source = await open_source(rabbitmq_server, queue)
    await source.send(outgoing(*[b"x"] * 500))
    first, *others = await claim(source, 500)

    await source.settle([delivery.ack() for delivery in others])
    await source.close()
    await source.open()
    returned = await claim(source, 1)

    assert (first.body, 2) == (returned[0].body, returned[0].attempt)
    assert 0 == client.count(queue)


async def test_a_settlement_of_an_earlier_connection_is_not_sent(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """Each connection counts from 1: a late settlement must not hit the delivery that has the same number now."""
    source = await open_source(rabbitmq_server, queue)
    await source.send(outgoing(b"late"))
    [late] = await claim(source, 1)
    await source.close()
    await source.open()
    [current] = await claim(source, 1)

    outcomes = await source.settle([late.ack(), late.dead_letter("rejected"), late.retry(0)])
    await source.close()
    await source.open()
    [returned] = await claim(source, 1)

    assert [Settled.LOST] * 3 == list(outcomes)
    assert (b"late", 3) == (returned.body, returned.attempt)
    assert current.receipt != late.receipt
    assert 0 == (await source.stats()).dead


async def test_a_deleted_queue_is_noticed_and_made_again(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """The broker cancels the consumer of a deleted queue: a waiting receive says so, and opening again repairs it."""
    source = await open_source(rabbitmq_server, queue)
    receiving = asyncio.ensure_future(source.receive(1, 60))
    await asyncio.wait([receiving], timeout=0.2)

    client.delete(queue)
    with pytest.raises(SourceUnavailable, match="the queue was deleted or moved"):
        await promptly(receiving)
    await source.close()
    await source.open()
    await source.send(outgoing(b"again"))

    assert [b"again"] == [delivery.body for delivery in await claim(source, 1)]


async def test_strange_headers_break_nothing(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """A foreign message with every kind of header arrives, is retried with all of them, and the connection lives."""
    source = await open_source(rabbitmq_server, queue)
    headers = {"text": "ü", "number": 2**40, "yes": True, "none": None, "table": {"a": [1, "b"]}, "bytes": b"\xff"}
    client.publish(queue, b"plain", headers=headers, correlation_id="c", content_type="text/plain")

    [delivery] = await claim(source, 1)
    await source.settle([delivery.retry(0.1, "again")])
    [retried] = await claim(source, 1)

    assert (b"plain", 2, 0) == (retried.body, retried.attempt, retried.crashes)
    assert delivery.message_id == retried.message_id
    assert dict(delivery.headers) == dict(retried.headers)
    assert ("ü", "1099511627776", "null") == tuple(retried.headers[name] for name in ("text", "number", "none"))


async def test_a_retry_survives_the_worker_that_asked_for_it(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A delayed retry of a worker that closes at once comes back one time, not two times and not never."""
    source = await open_source(rabbitmq_server, queue)
    other = await open_source(rabbitmq_server, queue)
    await source.send(outgoing(b"retried"))
    [delivery] = await claim(source, 1)

    await source.settle([delivery.retry(0.3, "it failed")])
    await source.close()
    [returned] = await claim(other, 1)

    assert (2, 0) == (returned.attempt, returned.crashes)
    assert [] == list(await other.receive(1, 0.7))


async def test_a_delay_beyond_the_ladder_is_kept_too(
    rabbitmq_server: RabbitServer,
    open_source: SourceFactory,
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message that waits longer than any delay queue goes through several, and is handed out when it is due."""
    monkeypatch.setattr("qbridge_rabbitmq.delays.LADDER", [100, 200])
    producer, source = await open_source(rabbitmq_server, queue), await open_source(rabbitmq_server, queue)
    claiming = asyncio.ensure_future(claim(source, 1))
    loop = asyncio.get_running_loop()
    sent_at = loop.time()

    sending = asyncio.ensure_future(producer.send(outgoing(b"late", delay=0.75)))
    [delivery] = await claiming
    waited = loop.time() - sent_at
    await sending

    assert waited >= 0.75
    assert (b"late", 1, 0) == (delivery.body, delivery.attempt, delivery.crashes)


async def test_a_source_works_on_uvloop(rabbitmq_server: RabbitServer, queue: str) -> None:
    """The loop may be uvloop's: everything is the same there."""
    uvloop = pytest.importorskip("uvloop")
    from qbridge_rabbitmq import RabbitOptions, RabbitSource

    async def live() -> list[bytes]:
        source = RabbitSource(queue, RabbitOptions.model_validate({"url": rabbitmq_server.url}))
        await source.open()
        await source.send(outgoing(b"a", b"b"))
        deliveries = await claim(source, 2)
        await source.settle([delivery.ack() for delivery in deliveries])
        await source.close()
        return [delivery.body for delivery in deliveries]

    def run() -> list[bytes]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(live())

    assert [b"a", b"b"] == await asyncio.to_thread(run)


async def test_released_messages_are_all_there(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """A batch that is released is in the queue when `settle` returns, for any worker."""
    source = await open_source(rabbitmq_server, queue)
    await source.send(outgoing(*[b"x"] * 30))
    deliveries = await claim(source, 30)

    await source.settle([delivery.release() for delivery in deliveries])

    async def are_there() -> bool:
        return client.count(queue) == 30

    await until(are_there)


@pytest.mark.parametrize("prefetch", [1, 100])
async def test_bodies_of_every_size_arrive(
    rabbitmq_server: RabbitServer, queue: str, open_source: SourceFactory, prefetch: int
) -> None:
    """Empty, just fitting a frame, and of several frames, whatever lies beside them."""
    source = await open_source(rabbitmq_server, queue, queue_type="classic", prefetch=prefetch)
    sizes = [0, 1, 131_063, 131_064, 131_065, 0, 400_000, 7, 65_536, 262_128]
    bodies = [bytes([size % 251]) * size for size in sizes]

    await source.send(outgoing(*bodies))

    for body in bodies:
        [delivery] = await claim(source, 1)
        assert body == delivery.body
        await source.settle([delivery.ack()])


async def test_a_consumer_stays_for_settlements_under_way(
    rabbitmq_server: RabbitServer, queue: str, open_source: SourceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that is slow to answer acknowledgements holds up the settlements that make room; no consumer is new."""
    calls: list[str] = []
    call = Channel.call

    async def slow_call(channel: Channel, method: str, *arguments: Any, **named: Any) -> Any:
        calls.append(method)
        if method == "flow":
            await asyncio.sleep(0.1)  # stands for the broker, ten times what a receive waits without a reason
        return await call(channel, method, *arguments, **named)

    monkeypatch.setattr(Channel, "call", slow_call)
    source = await open_source(rabbitmq_server, queue, queue_type="classic")
    await source.send(outgoing(b"0", b"1", b"2"))
    [first] = await source.receive(1, 5)
    receiving = asyncio.ensure_future(source.receive(1, 5))
    await asyncio.sleep(0)
    settling = asyncio.ensure_future(source.settle([first.ack()]))
    [second] = await receiving

    receiving = asyncio.ensure_future(source.receive(1, 5))
    await settling
    await source.settle([second.ack()])

    assert [b"2"] == [delivery.body for delivery in await receiving]
    assert 1 == calls.count("basic_consume")
