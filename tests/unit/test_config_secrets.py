"""Secrets: no error, representation or dump of a configuration shows one, and none shows a variable's value."""

from __future__ import annotations

import textwrap
import traceback

import pytest
from pydantic import ValidationError

from qbridge import ConfigError
from qbridge.config import Config, parse_config
from tests.support.config_backend import BACKENDS, error_of, text_of

START = """\
handlers: [shop.tasks]
queues:
  orders:
    backend: store
"""

#: What follows START → all that is said about it. The secret is always hunter2.
CASES = {
    "a url with a password": (
        """
        url: http://me:hunter2@host/
        """,
        "qbridge.yaml:5: queues.orders.url: *** is no URL like store://host",
    ),
    "a secret of a wrong type": (
        """
        url: store://host
        password: [hunter2]
        """,
        "qbridge.yaml:6: queues.orders.password must be text, not a list",
    ),
    "a secret that is a number": (
        """
        url: store://host
        password: 1234567
        """,
        "qbridge.yaml:6: queues.orders.password must be text, not a number that is not shown (put it in quotes)",
    ),
    "a secret by its name": (
        """
        url: store://host
        token: true
        """,
        "qbridge.yaml:6: queues.orders.token must be text, not a value that is not shown (put it in quotes)",
    ),
    "a validator that repeats secrets": (
        """
        url: store://host
        password: hunter2
        token: hunter2-too
        first: 10
        """,
        "qbridge.yaml:3: queues.orders: first (10) is after last (9), for *** at ***",
    ),
    "a validator that repeats a variable": (
        """
        url: store://host
        token: ${SECRET}
        first: 10
        """,
        "qbridge.yaml:3: queues.orders: first (10) is after last (9), for at ***",
    ),
    "a variable where it doesn't belong": (
        """
        url: store://host
        lease: ${SECRET}
        durability: ${SECRET}
        retries: ${SECRET}
        loops: ${SECRET}
        """,
        """
        qbridge.yaml:6: queues.orders.lease is the value of ${SECRET}, not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s
        qbridge.yaml:7: queues.orders.durability must be one of full, relaxed, not the value of ${SECRET}
        qbridge.yaml:8: queues.orders.retries must be a whole number, not the value of ${SECRET}
        qbridge.yaml:9: queues.orders.loops is the value of ${SECRET}, which is not among the loop groups (known: default)
        """,  # noqa: E501  # an error stands on one line
    ),
    "a url in a wrong place": (
        """
        url: store://host
        lease: redis://me:hunter2@host/
        codec: redis://me:hunter2@host/
        """,
        """
        qbridge.yaml:6: queues.orders.lease is 'redis://***@host/', not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s
        qbridge.yaml:7: queues.orders.codec must be a mapping, not 'redis://***@host/'
        """,  # noqa: E501  # an error stands on one line
    ),
    "a secret under a misspelt key": (
        """
        url: store://host
        passwort: hunter2
        codec: {pasword: hunter2}
        """,
        """
        qbridge.yaml:6: queues.orders.passwort is not a known key (known: backend, codec, loops, max_message_size, read_ahead, stalled_after, url, password, token, key, path, lease, pause, chunk, retries, ratio, durability, streams, region, tags, tls, first, last); did you mean 'password'?
        qbridge.yaml:7: queues.orders.codec.type is missing (known: json, raw)
        """,  # noqa: E501  # an error stands on one line
    ),
}


@pytest.mark.parametrize("yaml, problems", CASES.values(), ids=CASES)
def test_an_error_about_a_secret_does_not_show_it(yaml: str, problems: str) -> None:
    """The error says what is wrong with a secret, or with the value of a variable, without the value."""
    actual = error_of(START + textwrap.indent(text_of(yaml), "    "), {"SECRET": "hunter2"})

    assert text_of(problems).rstrip("\n") == actual


@pytest.mark.parametrize("key", ["PASSWORD", "TOKEN", "URL"])
def test_an_override_with_a_secret_is_not_shown(key: str) -> None:
    """A variable QBRIDGE_QUEUES__…__PASSWORD is held to the same rule."""
    yaml = START + "    url: store://host\n    first: 10\n"

    actual = error_of(yaml, {f"QBRIDGE_QUEUES__ORDERS__{key}": "hunter2"})

    assert "hunter2" not in actual


def test_the_traceback_of_an_error_shows_no_secret() -> None:
    """The error keeps no cause whose text could show what was given."""
    yaml = START + "    url: store://host\n    first: 10\n    password: " + "".join(["hun", "ter2"])

    with pytest.raises(ConfigError) as raised:
        parse_config(yaml, env={}, backends=BACKENDS)

    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_no_form_of_a_config_shows_a_secret() -> None:
    """Neither repr, str, a dump nor JSON shows a secret, though the backend gets it."""
    config = parse_config(
        START + "    url: store://me:hunter2@host\n    password: hunter2\n", env={}, backends=BACKENDS
    )

    shown = [repr(config), str(config), repr(config.model_dump()), config.model_dump_json(), str(config.queues)]

    assert [] == [text for text in shown if "hunter2" in text]
    assert "hunter2" == config.queues["orders"].options.model_dump()["password"].get_secret_value()


def test_pydantics_own_error_shows_no_secret() -> None:
    """Who validates with the model itself gets an error without inputs."""
    with pytest.raises(ValidationError) as raised:
        Config.model_validate(
            {"handlers": [], "queues": {"a": {"backend": "store", "url": ["hunter2"]}}}, context={"backends": BACKENDS}
        )

    assert "hunter2" not in str(raised.value)
