"""The JSON Schema of the YAML: it takes what the models take, and refuses what they refuse."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types
import pytest
import yaml

from qbridge import Backend, BackendOptions
from qbridge.config import parse_config
from qbridge.discovery import installed_backends
from qbridge.schema import config_schema
from tests.support.config_backend import BACKENDS, text_of


class PictureOptions(BackendOptions):
    """Options of a backend that is not written yet.

    Attributes:
        url: Where the broker is.
        queue: What it calls the queue.
    """

    url: str
    queue: str


PICTURES: Backend[Any] = Backend(
    name="rabbitmq",
    summary="for the example only",
    options=PictureOptions,
    capabilities=BACKENDS["store"].capabilities,
    create=BACKENDS["store"].create,
    needs={},
    example={},
)

EXAMPLE = text_of(
    """
    handlers: [shop.tasks]                 # modules, or module:registry
    queues:
      default: {backend: sqlite, path: ./qbridge.db}
      orders:
        backend: redis
        url: ${REDIS_URL:-redis://localhost:6379/0}
        key: orders
        lease: 30s                         # after this without a sign of life, another worker takes the delivery
      pictures: {backend: rabbitmq, url: "amqp://guest:guest@localhost/", queue: pictures}
      numbers:                             # anybody may `LPUSH numbers 5`
        backend: redis
        url: redis://localhost:6379/3
        key: queue
        codec: {type: raw, task: do_some_work}
    processes: 1
    loops:
      default: {threads: 1, concurrency: 500, implementation: auto}   # auto | asyncio | uvloop
    retry: {max_attempts: 5, backoff: exponential, base: 1s, cap: 5m}
    max_crashes: 3
    shutdown: {grace: 25s}
    logging: {level: info, format: console}   # console | json
    """
)

QUEUE = "handlers: [shop.tasks]\nqueues:\n  orders:\n    backend: store\n    url: store://host\n"


def complaints(schema: dict[str, Any], text: str) -> list[str]:
    """Return what the schema has against a YAML text, as an editor would say it."""
    validator = jsonschema.Draft202012Validator(schema)
    return [error.message for error in validator.iter_errors(yaml.safe_load(text))]


def test_the_example_of_the_documentation_is_valid() -> None:
    """Schema and models take it alike, with every backend that is installed."""
    backends = {**installed_backends(), "rabbitmq": PICTURES}

    assert [] == complaints(config_schema(backends), EXAMPLE)
    assert 4 == len(parse_config(EXAMPLE, env={}, backends=backends).queues)


def test_it_is_a_schema_of_its_dialect() -> None:
    """It is valid by the rules of draft 2020-12 itself, and can be written as JSON."""
    schema = config_schema(BACKENDS)

    jsonschema.Draft202012Validator.check_schema(schema)
    assert "https://json-schema.org/draft/2020-12/schema" == schema["$schema"]
    assert schema == json.loads(json.dumps(schema))


@pytest.mark.parametrize(
    "text, complaint",
    [
        (QUEUE + "queue: {}\n", "Additional properties are not allowed ('queue' was unexpected)"),
        (QUEUE + "shutdown: {grase: 5s}\n", "Additional properties are not allowed ('grase' was unexpected)"),
        (QUEUE + "    ur: store://host\n", "Additional properties are not allowed ('ur' was unexpected)"),
        (QUEUE + "    queue: x\n", "Additional properties are not allowed ('queue' was unexpected)"),
        (QUEUE + "    retries: -1\n", "-1 is not valid under any of the given schemas"),
        (QUEUE + "    lease: soon\n", "'soon' is not valid under any of the given schemas"),
        (QUEUE + "processes: 0\n", "0 is not valid under any of the given schemas"),
        (QUEUE.replace("store\n", "stor\n"), "'stor' is not valid under any of the given schemas"),
        (QUEUE.replace("url: store://host", "key: x"), "'url' is a required property"),
        (QUEUE.replace("orders", "my orders"), "'my orders' does not match any of the regexes"),
        ("queues: {}\n", "'handlers' is a required property"),
    ],
)
def test_what_the_models_refuse_is_refused(text: str, complaint: str) -> None:
    """An editor marks unknown keys, values out of bounds and what is missing, for options as for the core's keys."""
    told = complaints(config_schema({**BACKENDS, "rabbitmq": PICTURES}), text)

    assert any(complaint in message for message in told), told


@pytest.mark.parametrize(
    "text",
    [
        QUEUE + "    retries: ${RETRIES}\n    streams: ${STREAMS:-auto}\n    durability: ${DURABILITY}\n",
        QUEUE + "    tags: ['${TAG}']\n    tls: {certificate: a.pem, verify: '${VERIFY}'}\n    loops: ${LOOPS}\n",
        QUEUE + "processes: ${PROCESSES:-1}\nlogging: {level: '${LEVEL}'}\nretry: {jitter: '${JITTER}'}\n",
        QUEUE.replace("backend: store", "backend: ${BACKEND:-store}"),
    ],
)
def test_a_variable_may_stand_for_every_value(text: str) -> None:
    """Where a number or a choice belongs, an editor takes ${VAR} as well."""
    assert [] == complaints(config_schema(BACKENDS), text)


def test_it_says_what_the_docstrings_say() -> None:
    """Descriptions of keys, of the core's and of the backend's, come from the models' docstrings."""
    schema = config_schema(BACKENDS)
    queue = schema["$defs"]["store.queue"]

    assert "The whole configuration of a worker service." == schema["description"]
    assert (
        "Workers that a message may kill before it becomes a dead letter, 2 to 100."
        == (schema["properties"]["max_crashes"]["description"])
    )
    assert "a store of tests" == queue["description"]
    assert "Where copies are written, if anywhere." == queue["properties"]["path"]["description"]
    assert "File of the certificate." == schema["$defs"]["store.TlsOptions"]["properties"]["certificate"]["description"]


def test_it_is_the_same_for_the_same_backends_in_another_order() -> None:
    """A file that holds it changes only when something has changed."""
    one = config_schema({**BACKENDS, "rabbitmq": PICTURES})
    other = config_schema({"rabbitmq": PICTURES, **BACKENDS})

    assert json.dumps(one) == json.dumps(other)


def test_without_any_backend_there_is_still_a_schema() -> None:
    """Everything but the queues can be checked."""
    schema = config_schema({})

    jsonschema.Draft202012Validator.check_schema(schema)
    assert [] == complaints(schema, "handlers: []\nqueues: {a: {backend: '${BACKEND}'}}\n")


def test_a_type_that_json_schema_has_no_words_for_is_left_to_its_model() -> None:
    """A backend may have an option that only its model can check."""

    class Odd:
        """A type of somebody's own."""

    class OddOptions(BackendOptions, arbitrary_types_allowed=True):
        odd: Odd | None = None

    odd: Backend[Any] = Backend(
        name="odd",
        summary="odd",
        options=OddOptions,
        capabilities=BACKENDS["store"].capabilities,
        create=BACKENDS["store"].create,
        needs={},
        example={},
    )

    assert [] == complaints(config_schema({"odd": odd}), "handlers: []\nqueues: {a: {backend: odd, odd: 5}}\n")
