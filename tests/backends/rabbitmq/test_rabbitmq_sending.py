"""How messages are written, and what becomes of a batch with one that can't be."""

from __future__ import annotations

import asyncio
from typing import Any

import pika
import pytest
from pika import frame, spec

from qbridge import Outgoing, SourceError
from qbridge_rabbitmq.raw import RawConnection
from tests.backends.rabbitmq.conftest import SourceFactory
from tests.backends.rabbitmq.steps import claim, outgoing
from tests.support.rabbitmq_server import RabbitServer


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each piece that any connection writes from here on."""
    sizes: list[int] = []
    write = RawConnection._adapter_emit_data

    def note(connection: Any, data: bytes) -> None:
        sizes.append(len(data))
        write(connection, data)

    monkeypatch.setattr(RawConnection, "_adapter_emit_data", note)
    return sizes


@pytest.mark.rabbitmq
async def test_a_batch_is_written_at_once(
    rabbitmq_server: RabbitServer, queue: str, open_source: SourceFactory, pieces: list[int]
) -> None:
    """Hundreds of small messages are a few writes, and so are acknowledgements, in whatever order handlers end."""
    source = await open_source(rabbitmq_server, queue, queue_type="classic")
    await source.send(outgoing(b"first"))
    pieces.clear()

    await source.send(outgoing(*[b"x" * 100] * 400))
    written = len(pieces)
    deliveries = await claim(source, 401)
    pieces.clear()
    await source.settle([delivery.ack() for delivery in deliveries[1::2]])

    assert written <= 2
    assert len(pieces) <= 4  # the end of the consumption, the acknowledgements, and what asks whether they were read


@pytest.mark.rabbitmq
async def test_a_batch_with_a_message_that_can_t_be_written_is_not_sent(
    rabbitmq_server: RabbitServer, queue: str, open_source: SourceFactory
) -> None:
    """AMQP has names of 255 bytes at most. Nothing of the batch is sent, and the next one is confirmed as ever."""
    source = await open_source(rabbitmq_server, queue, queue_type="classic")

    with pytest.raises(SourceError):
        await source.send([*outgoing(b"before"), Outgoing(body=b"too long", message_id="x" * 256)])
    await source.send(outgoing(b"after"))

    assert [b"after"] == [delivery.body for delivery in await claim(source, 1)]
    assert [] == list(await source.receive(10, 0.2))


async def test_deliveries_are_signs_of_life() -> None:
    """The client library gives up a connection from which no byte comes: what is read without it is counted too."""
    connection = RawConnection(
        pika.ConnectionParameters(), custom_ioloop=asyncio.get_running_loop(), internal_connection_workflow=False
    )
    taken: list[Any] = []
    connection.reader.takers[1] = taken.extend
    frames = [
        frame.Method(1, spec.Basic.Deliver("consumer", 1, False, "", "queue")),
        frame.Header(1, 4, pika.BasicProperties()),
        frame.Body(1, b"body"),
        frame.Heartbeat(),
    ]
    data = b"".join(each.marshal() for each in frames)

    connection._on_data_available(data)

    assert 1 == len(taken)
    assert len(data) == connection.bytes_received
