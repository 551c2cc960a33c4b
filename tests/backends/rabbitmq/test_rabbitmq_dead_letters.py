"""Dead letters lie in a queue of their own: what a person sees of them, however often and however many."""

from __future__ import annotations

import pytest

from tests.backends.rabbitmq.amqp import AmqpClient
from tests.backends.rabbitmq.conftest import SourceFactory
from tests.backends.rabbitmq.steps import claim, outgoing
from tests.support.rabbitmq_server import RabbitServer

pytestmark = pytest.mark.rabbitmq


async def test_listing_changes_nothing(rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str) -> None:
    """However often and in whatever pages dead letters are listed, they stay and keep their order."""
    source = await open_source(rabbitmq_server, queue)
    bodies = [b"%d" % number for number in range(12)]
    await source.send(outgoing(*bodies))
    await source.settle([delivery.dead_letter("rejected") for delivery in await claim(source, 12)])

    for _ in range(25):  # RabbitMQ 4 drops what it has delivered more than 20 times
        page = await source.dead_letters(limit=5)
        await source.dead_letters(limit=5, after=page[-1].message_id)
    listed = await source.dead_letters()

    assert bodies == [dead.body for dead in listed]
    assert {1} == {dead.attempts for dead in listed}


async def test_more_than_a_page_of_dead_letters(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """Hundreds are listed, some purged by name, the others made ready again, each once."""
    source = await open_source(rabbitmq_server, queue)
    await source.send(outgoing(*[b"%d" % number for number in range(1100)]))
    await source.settle([delivery.dead_letter("rejected") for delivery in await claim(source, 1100)])

    listed = await source.dead_letters(limit=2000)
    purged = await source.purge([dead.message_id for dead in listed[:100]])
    redriven = await source.redrive()
    returned = await claim(source, 1000)

    assert (1100, 100, 1000) == (len(listed), purged, redriven)
    assert sorted(dead.body for dead in listed[100:]) == sorted(delivery.body for delivery in returned)
    assert {(1, 0)} == {(delivery.attempt, delivery.crashes) for delivery in returned}


async def test_equal_messages_have_names_of_their_own(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """Foreign messages without an id and with equal bodies can be told apart among the dead letters."""
    source = await open_source(rabbitmq_server, queue)
    for _ in range(3):
        client.publish(queue, b"same")
    await source.settle([delivery.dead_letter("undecodable") for delivery in await claim(source, 3)])

    names = [dead.message_id for dead in await source.dead_letters()]

    assert 3 == len(set(names))
    assert 1 == await source.purge([names[1]])
    assert 2 == (await source.stats()).dead


async def test_what_the_broker_gives_up_is_a_dead_letter(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """Beyond `delivery_limit` a quorum queue lets go of a message: it lies among the dead letters, as crashed."""
    source = await open_source(rabbitmq_server, queue, delivery_limit=1)
    await source.send(outgoing(b"deadly"))

    for _ in range(2):
        await claim(source, 1)
        await source.close()
        await source.open()
    assert [] == list(await source.receive(1, 0.5))
    [dead] = await source.dead_letters()

    assert (b"deadly", "crashed", []) == (dead.body, dead.reason, list(dead.errors))
    assert 1 == await source.redrive()
    [returned] = await claim(source, 1)
    assert (1, 0) == (returned.attempt, returned.crashes)


async def test_the_papers_of_a_dead_letter_can_be_read_by_anybody(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """Reason, attempts and errors stand in headers that an operator sees in any AMQP tool."""
    source = await open_source(rabbitmq_server, queue)
    await source.send(outgoing(b"x"))
    [delivery] = await claim(source, 1)
    await source.settle([delivery.retry(0, "first")])
    [delivery] = await claim(source, 1)

    await source.settle([delivery.dead_letter("exhausted", "second")])
    headers = client.headers(f"{queue}.dead")

    assert ("exhausted", 2) == (headers["qbridge-reason"], headers["qbridge-attempts"])
    assert ["first", "second"] == headers["qbridge-errors"]
