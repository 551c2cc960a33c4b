"""Bad configurations, each with the exact error: queues, codecs, and the options of a backend."""

# ruff: noqa: E501  # an expected error stands on one line, as people see it

from __future__ import annotations

import textwrap

import pytest

from tests.support.config_backend import error_of, text_of

#: What stands from line 3 on, below `queues:` → all that is said about it.
QUEUES = {
    "queues empty": (
        "",
        "qbridge.yaml:2: queues is empty: it must be a mapping",
    ),
    "a queue with a bad name": (
        "'my orders': {backend: store, url: store://host}",
        "qbridge.yaml:3: queues[\"my orders\"]: a name has 1 to 128 letters, digits, '_', '.', ':' or '-'",
    ),
    "a queue that is a text": (
        "orders: store",
        "qbridge.yaml:3: queues.orders must be a mapping, not 'store'",
    ),
    "a queue that is empty": (
        "orders:",
        "qbridge.yaml:3: queues.orders is empty: it must be a mapping",
    ),
    "a backend missing": (
        "orders: {url: store://host}",
        "qbridge.yaml:3: queues.orders.backend is missing (known: store)",
    ),
    "an unknown backend": (
        "orders: {backend: stor, url: nothing}",
        "qbridge.yaml:3: queues.orders.backend is 'stor', which no installed package provides (known: store); did you mean 'store'?",
    ),
    "a backend to install": (
        "orders: {backend: rabbitmq, queue: orders}",
        "qbridge.yaml:3: queues.orders.backend is 'rabbitmq', which no installed package provides (known: store); install it: pip install \"qbridge[rabbitmq]\"",
    ),
    "a backend by another name": (
        "orders: {backend: amqp}",
        "qbridge.yaml:3: queues.orders.backend is 'amqp', which no installed package provides (known: store); install it: pip install \"qbridge[rabbitmq]\"",
    ),
    "a backend that is a number": (
        "orders: {backend: 5}",
        "qbridge.yaml:3: queues.orders.backend must be text, not 5 (put it in quotes)",
    ),
    "an option missing": (
        "orders: {backend: store}",
        "qbridge.yaml:3: queues.orders.url is missing (where the store is, like store://host)",
    ),
    "a secret url that is wrong": (
        "orders: {backend: store, url: 'http://me:hunter2@host/'}",
        "qbridge.yaml:3: queues.orders.url: *** is no URL like store://host",
    ),
    "a url where a mapping belongs": (
        "orders: store://me:hunter2@host/",
        "qbridge.yaml:3: queues.orders must be a mapping, not 'store://***@host/'",
    ),
}

ORDERS = """\
handlers: [shop.tasks]
queues:
  orders:
    backend: store
    url: store://host
"""

#: What stands on line 6, in the queue → all that is said about it.
KEYS = {
    "an unknown loop group": (
        "loops: defualt",
        "qbridge.yaml:6: queues.orders.loops is 'defualt', which is not among the loop groups (known: default); did you mean 'default'?",
    ),
    "a message size that is none": (
        "max_message_size: huge",
        "qbridge.yaml:6: queues.orders.max_message_size is 'huge', not a size: write a number of bytes, or a number with B, KB, MB, GB, KiB, MiB or GiB",
    ),
    "a message size too large": (
        "max_message_size: 65MiB",
        "qbridge.yaml:6: queues.orders.max_message_size must be at most 64MiB, not '65MiB'",
    ),
    "a message size of zero": (
        "max_message_size: 0",
        "qbridge.yaml:6: queues.orders.max_message_size must be at least 1B, not 0",
    ),
    "read_ahead out of bounds": (
        "read_ahead: 10001",
        "qbridge.yaml:6: queues.orders.read_ahead must be at most 10000, not 10001",
    ),
    "a codec that is a text": (
        "codec: raw",
        "qbridge.yaml:6: queues.orders.codec must be a mapping, not 'raw' (write {type: raw})",
    ),
    "a codec without a type": (
        "codec: {task: resize}",
        "qbridge.yaml:6: queues.orders.codec.type is missing (known: json, raw)",
    ),
    "an unknown codec": (
        "codec: {type: jsn}",
        "qbridge.yaml:6: queues.orders.codec.type must be one of json, raw, not 'jsn'; did you mean 'json'?",
    ),
    "a raw codec without a task": (
        "codec: {type: raw}",
        "qbridge.yaml:6: queues.orders.codec.task is missing (name of the task that every message of the queue is for)",
    ),
    "a raw codec with a bad task": (
        "codec: {type: raw, task: do it, tsk: x}",
        """
        qbridge.yaml:6: queues.orders.codec.task is 'do it': a name has 1 to 128 letters, digits, '_', '.', ':' or '-'
        qbridge.yaml:6: queues.orders.codec.tsk is not a known key (known: type, task); did you mean 'task'?
        """,
    ),
    "a json codec with a task": (
        "codec: {type: json, task: resize}",
        "qbridge.yaml:6: queues.orders.codec.task is not a known key (known: type)",
    ),
}

#: The same, for keys that are the backend's options.
OPTIONS = {
    "an unknown option": (
        "ur: store://host",
        "qbridge.yaml:6: queues.orders.ur is not a known key (known: backend, codec, loops, max_message_size, read_ahead, stalled_after, url, password, token, key, path, lease, pause, chunk, retries, ratio, durability, streams, region, tags, tls, first, last); did you mean 'url'?",
    ),
    "an option of the core's words": (
        "options: {key: x}",
        "qbridge.yaml:6: queues.orders.options is not a known key (known: backend, codec, loops, max_message_size, read_ahead, stalled_after, url, password, token, key, path, lease, pause, chunk, retries, ratio, durability, streams, region, tags, tls, first, last)",
    ),
    "a text that is a number": (
        "key: 0123",
        "qbridge.yaml:6: queues.orders.key must be text, not 0123 (put it in quotes)",
    ),
    "a text that is a boolean": (
        "key: true",
        "qbridge.yaml:6: queues.orders.key must be text, not true (put it in quotes)",
    ),
    "a path that is a number": (
        "path: 5",
        "qbridge.yaml:6: queues.orders.path must be text, not 5 (put it in quotes)",
    ),
    "a duration out of bounds": (
        "lease: 2h",
        "qbridge.yaml:6: queues.orders.lease must be at most 1h, not '2h'",
    ),
    "a duration under a bound of less than a second": (
        "pause: 10ms",
        "qbridge.yaml:6: queues.orders.pause must be at least 0.1s, not '10ms'",
    ),
    "a size out of bounds": (
        "chunk: 2GiB",
        "qbridge.yaml:6: queues.orders.chunk must be at most 1GiB, not '2GiB'",
    ),
    "an odd number": (
        "retries: 3",
        "qbridge.yaml:6: queues.orders.retries must be a multiple of 2, not 3",
    ),
    "a ratio out of bounds": (
        "ratio: 1.0",
        "qbridge.yaml:6: queues.orders.ratio must be under 1, not 1.0",
    ),
    "an unknown member of an enum": (
        "durability: relax",
        "qbridge.yaml:6: queues.orders.durability must be one of full, relaxed, not 'relax'; did you mean 'relaxed'?",
    ),
    "none of a union": (
        "streams: many",
        "qbridge.yaml:6: queues.orders.streams must be a whole number or auto, not 'many'",
    ),
    "a member of a union out of bounds": (
        "streams: 0",
        "qbridge.yaml:6: queues.orders.streams must be at least 1 or auto, not 0",
    ),
    "a text that doesn't match": (
        "region: HERE",
        "qbridge.yaml:6: queues.orders.region is 'HERE': it must match ^[a-z]+-[0-9]$",
    ),
    "a text that is too long": (
        "region: somewhere-1",
        "qbridge.yaml:6: queues.orders.region must have at most 8 characters, not 'somewhere-1'",
    ),
    "items that are wrong": (
        "tags: [a, 5, '']",
        """
        qbridge.yaml:6: queues.orders.tags[1] must be text, not 5 (put it in quotes)
        qbridge.yaml:6: queues.orders.tags[2] must have at least 1 character, not ''
        """,
    ),
    "too many items": (
        "tags: [a, b, c, d]",
        "qbridge.yaml:6: queues.orders.tags must have at most 3 entries, not 4",
    ),
    "a nested model": (
        "tls: {certifikate: x, verify: on}",
        """
        qbridge.yaml:6: queues.orders.tls.certificate is missing (file of the certificate)
        qbridge.yaml:6: queues.orders.tls.certifikate is not a known key (known: certificate, verify); did you mean 'certificate'?
        qbridge.yaml:6: queues.orders.tls.verify must be true or false, not 'on' (write true)
        """,
    ),
    "a long text": (
        "lease: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "qbridge.yaml:6: queues.orders.lease is 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...', not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s",
    ),
}


@pytest.mark.parametrize("yaml, problems", QUEUES.values(), ids=QUEUES)
def test_a_bad_queue_is_told_in_full(yaml: str, problems: str) -> None:
    """Each problem of a queue is one line: place, key, what was given, what is known."""
    actual = error_of("handlers: [shop.tasks]\nqueues:\n" + textwrap.indent(text_of(yaml), "  "))

    assert text_of(problems).rstrip("\n") == actual


@pytest.mark.parametrize("yaml, problems", (KEYS | OPTIONS).values(), ids=KEYS | OPTIONS)
def test_a_bad_key_of_a_queue_is_told_in_full(yaml: str, problems: str) -> None:
    """A backend's options are told in the same words as the core's own keys, and named beside them."""
    actual = error_of(ORDERS + textwrap.indent(text_of(yaml), "    "))

    assert text_of(problems).rstrip("\n") == actual
