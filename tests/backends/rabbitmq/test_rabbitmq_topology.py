"""What `open` makes on the broker, and what it says when the broker has something else or refuses."""

from __future__ import annotations

import logging
import uuid

import pytest

from qbridge import SourceMisconfigured
from qbridge_rabbitmq import RabbitOptions, RabbitSource
from tests.backends.rabbitmq.amqp import AmqpClient
from tests.backends.rabbitmq.conftest import SourceFactory
from tests.backends.rabbitmq.steps import claim, outgoing
from tests.support.rabbitmq_server import RabbitServer

pytestmark = pytest.mark.rabbitmq

SECRET = "hunter2"


async def refusal(server: RabbitServer, queue: str, **options: object) -> str:
    """Return what SourceMisconfigured says about a source that can't be opened."""
    source = RabbitSource(queue, RabbitOptions.model_validate({"url": server.url, **options}))
    with pytest.raises(SourceMisconfigured) as caught:
        await source.open()
    await source.close()
    return str(caught.value)


async def test_a_queue_of_another_type_is_named_with_its_argument(
    rabbitmq_server: RabbitServer, client: AmqpClient, queue: str
) -> None:
    """A queue that somebody made otherwise is a configuration error with the queue, the argument and both values."""
    client.declare(queue, x_queue_type="classic")

    text = await refusal(rabbitmq_server, queue)

    assert f"queue '{queue}' is there with other properties than configured" in text
    assert "inequivalent arg 'x-" in text
    assert "declare: false" in text


async def test_an_argument_that_differs_is_named(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """A changed option of a queue that exists is told by the name that it has on the broker."""
    await open_source(rabbitmq_server, queue, delivery_limit=50)

    text = await refusal(rabbitmq_server, queue, delivery_limit=60)

    assert "'x-delivery-limit'" in text
    assert "60" in text
    assert "50" in text


async def test_a_foreign_queue_is_taken_as_it_is(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """With `declare: false` the queue that another program made is used, messages that it has and all."""
    client.declare(queue, x_queue_type="classic", x_max_priority=3)
    client.publish(queue, b"foreign")

    source = await open_source(rabbitmq_server, queue, declare=False, queue_type="classic")
    [delivery] = await claim(source, 1)
    await source.settle([delivery.retry(0)])
    [retried] = await claim(source, 1)

    assert (b"foreign", 1) == (delivery.body, delivery.attempt)
    assert (b"foreign", 2) == (retried.body, retried.attempt)


async def test_a_foreign_queue_must_be_there(rabbitmq_server: RabbitServer, queue: str) -> None:
    """With `declare: false` a missing queue is a configuration error."""
    text = await refusal(rabbitmq_server, queue, declare=False)

    assert f"there is no queue '{queue}'" in text
    assert "declare is false" in text


async def test_the_arguments_of_the_queue_are_passed_on(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str
) -> None:
    """`arguments` reach the broker as they are."""
    await open_source(rabbitmq_server, queue, arguments={"x-max-length": 7})

    assert "7" in await refusal(rabbitmq_server, queue, arguments={"x-max-length": 8})


async def test_a_queue_is_bound_to_an_exchange(
    rabbitmq_server: RabbitServer, client: AmqpClient, open_source: SourceFactory, queue: str
) -> None:
    """What anybody publishes to the exchange with a key that fits is delivered."""
    exchange = f"exchange-{uuid.uuid4().hex}"
    client.declare_exchange(exchange)
    source = await open_source(rabbitmq_server, queue, exchange=exchange, routing_key="orders.#")

    client.publish("orders.eu", b"routed", exchange=exchange)

    assert [b"routed"] == [delivery.body for delivery in await claim(source, 1)]


async def test_a_missing_exchange_is_named(rabbitmq_server: RabbitServer, queue: str) -> None:
    """An exchange that isn't there is a configuration error that names it."""
    assert "there is no exchange 'nowhere'" in await refusal(rabbitmq_server, queue, exchange="nowhere")


async def test_a_wrong_password_is_not_repeated(
    rabbitmq_server: RabbitServer, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused login is a configuration error; neither its text nor any log line has the password."""
    caplog.set_level(logging.DEBUG)
    url = rabbitmq_server.url.replace("guest:guest", f"guest:{SECRET}")

    text = await refusal(rabbitmq_server, queue, url=url)

    assert "refuses the user name or the password" in text
    assert SECRET not in text + caplog.text


async def test_a_missing_virtual_host_is_named(rabbitmq_server: RabbitServer, queue: str) -> None:
    """A virtual host that isn't there is a configuration error that names it."""
    text = await refusal(rabbitmq_server, queue, url=f"{rabbitmq_server.url}nowhere")

    assert "nowhere" in text
    assert "vhost" in text


async def test_a_user_without_rights_is_told(rabbitmq_server: RabbitServer, queue: str) -> None:
    """A user who may neither make nor read the queue is a configuration error, and the password stays secret."""
    rabbitmq_server.ctl("add_user", "limited", SECRET)
    rabbitmq_server.ctl("set_permissions", "limited", "^$", "^$", "^$")
    url = rabbitmq_server.url.replace("guest:guest", f"limited:{SECRET}")

    text = await refusal(rabbitmq_server, queue, url=url)

    assert f"there is no queue '{queue}' for this user" in text
    assert SECRET not in text


async def test_no_log_line_has_the_password(
    rabbitmq_server: RabbitServer, open_source: SourceFactory, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the client library tells of a whole life at its most talkative, the password isn't in it."""
    caplog.set_level(logging.DEBUG)
    rabbitmq_server.ctl("add_user", "talkative", SECRET)
    rabbitmq_server.ctl("set_permissions", "talkative", ".*", ".*", ".*")
    url = rabbitmq_server.url.replace("guest:guest", f"talkative:{SECRET}")

    source = await open_source(rabbitmq_server, queue, url=url)
    await source.send(outgoing(b"a"))
    await source.settle([delivery.ack() for delivery in await claim(source, 1)])
    await source.close()

    assert "talkative" in rabbitmq_server.log
    assert SECRET not in caplog.text
