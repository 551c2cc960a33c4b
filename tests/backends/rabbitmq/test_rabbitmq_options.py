"""What stands under a RabbitMQ queue in the YAML: what is taken, what is refused, and that no password is told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from qbridge_rabbitmq import RabbitOptions
from qbridge_rabbitmq.address import RabbitAddress, parse_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://localhost", RabbitAddress()),
        ("amqp://localhost/", RabbitAddress()),
        ("amqp://mq:5673/shop", RabbitAddress(host="mq", port=5673, vhost="shop")),
        ("amqp://mq/%2F", RabbitAddress(host="mq")),
        ("amqp://mq/a%2Fb", RabbitAddress(host="mq", vhost="a/b")),
        ("amqps://mq", RabbitAddress(host="mq", port=5671, tls=True)),
        ("amqp://[::1]:5672/", RabbitAddress(host="::1")),
        ("amqp://me:p%40ss@mq/", RabbitAddress(host="mq", username="me", password="p@ss")),
    ],
)
def test_a_url_says_where_the_broker_is(url: str, expected: RabbitAddress) -> None:
    """Host, port, virtual host, credentials and TLS are read from the URL; what is missing is as everywhere else."""
    assert expected == parse_url(url)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": f"http://me:{SECRET}@mq/"}, "must begin with amqp:// or amqps://"),
        ({"url": f"amqp://me:{SECRET}@mq:port/"}, "port is not a number"),
        ({"url": f"amqp://me:{SECRET}@mq:0/"}, "port is 0"),
        ({"url": f"amqp://me:{SECRET}@mq/?heartbeat=5"}, "options have names of their own here"),
        ({"url": f"amqp://me:{SECRET}@mq/a/b"}, "write that / as %2F"),
        ({"url": f"amqp://me:{SECRET}@mq/", "password": SECRET}, "a password stands both in the url and"),
        ({"url": f"amqp://me:{SECRET}@mq/", "username": "me"}, "a user name stands both in the url and"),
        ({"url": "amqp://mq/", "host": "mq"}, "host stands beside a url"),
        ({"url": "amqp://mq/", "vhost": "/"}, "vhost stands beside a url"),
        ({"queue": "amq.mine"}, "names that begin with amq. are RabbitMQ's own"),
        ({"queue": ""}, "1 to 200 bytes"),
        ({"queue": "ü" * 101}, "1 to 200 bytes"),
        ({"queue_type": "stream"}, "'quorum' or 'classic'"),
        ({"arguments": {"x-queue-type": "quorum"}}, "x-queue-type can't be given here: use queue_type"),
        ({"arguments": {"x-max-length": [1]}}, "must be a text, a whole number or a truth value"),
        ({"routing_key": "a.b"}, "routing_key needs exchange"),
        ({"ca_file": "ca.pem"}, "are for TLS: give an amqps:// url"),
        ({"url": "amqps://mq/", "key_file": "key.pem"}, "key_file needs cert_file"),
        ({"prefetch": 0}, "greater than or equal to 1"),
        ({"heartbeat": "0s"}, "greater than or equal to 1"),
        ({"qeue": "a"}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_option_is_refused_with_the_way_out(options: dict[str, Any], text: str) -> None:
    """Each mistake is named, and nothing of a URL or a password is repeated."""
    with pytest.raises(ValidationError) as caught:
        RabbitOptions.model_validate(options)

    assert text in str(caught.value)
    assert SECRET not in str(caught.value)


def test_credentials_come_from_wherever_they_were_given() -> None:
    """The user name may stand in the URL and the password beside it, unencoded."""
    options = RabbitOptions.model_validate({"url": "amqp://me@mq/", "password": "p@ss/word"})

    assert ("me", "p@ss/word") == (options.address().username, options.address().password)


def test_the_parts_of_an_address_may_stand_alone() -> None:
    """Without a URL host, port and virtual host are options of their own."""
    options = RabbitOptions.model_validate({"host": "mq", "port": 5673, "vhost": "shop/eu"})

    assert RabbitAddress(host="mq", port=5673, vhost="shop/eu") == options.address()


def test_no_representation_tells_the_password() -> None:
    """Neither the options nor the address show a password, whatever prints them."""
    options = RabbitOptions.model_validate({"url": f"amqp://me:{SECRET}@mq/shop"})

    assert SECRET not in f"{options!r} {options.model_dump()} {options.model_dump_json()} {options.address()!r}"
    assert "amqp://mq:5672/shop" == str(options.address())
