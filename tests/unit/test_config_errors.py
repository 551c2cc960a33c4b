"""Bad configurations, each with the exact error: the keys of the whole file and of its sections."""

# ruff: noqa: E501  # an expected error stands on one line, as people see it

from __future__ import annotations

import pytest

from tests.support.config_backend import error_of, text_of

QUEUES = """\
handlers: [shop.tasks]
queues:
  orders: {backend: store, url: store://host}
"""

#: Whole files → all that is said about them.
FILES = {
    "no keys of ours": (
        "{}",
        """
        qbridge.yaml:1: handlers is missing (modules that register handlers, like shop.tasks, or module:registry)
        qbridge.yaml:1: queues is missing (queues by name; at least one)
        """,
    ),
    "queues missing": (
        "handlers: [shop.tasks]",
        "qbridge.yaml:1: queues is missing (queues by name; at least one)",
    ),
    "no queue": (
        """
        handlers: [shop.tasks]
        queues: {}
        """,
        "qbridge.yaml:2: queues must have at least 1 entry, not 0",
    ),
    "queues a list": (
        """
        handlers: [shop.tasks]
        queues: [orders]
        """,
        "qbridge.yaml:2: queues must be a mapping, not a list",
    ),
    "handlers a text": (
        """
        handlers: shop.tasks
        queues: {orders: {backend: store, url: store://host}}
        """,
        "qbridge.yaml:1: handlers must be a list, not 'shop.tasks' (write [shop.tasks])",
    ),
    "a handler that is a file": (
        """
        handlers: [shop/tasks.py]
        queues: {orders: {backend: store, url: store://host}}
        """,
        "qbridge.yaml:1: handlers[0] is 'shop/tasks.py', not a module but a file: write 'shop.tasks'",
    ),
    "a handler that is no module": (
        """
        handlers: [shop-tasks, 'shop.tasks:', .tasks, shop.tasks]
        queues: {orders: {backend: store, url: store://host}}
        """,
        """
        qbridge.yaml:1: handlers[0] is 'shop-tasks', not a module like shop.tasks, or module:registry
        qbridge.yaml:1: handlers[1] is 'shop.tasks:', not a module like shop.tasks, or module:registry
        qbridge.yaml:1: handlers[2] is '.tasks', not a module like shop.tasks, or module:registry
        """,
    ),
    "a handler that is a number": (
        """
        handlers: [5]
        queues: {orders: {backend: store, url: store://host}}
        """,
        "qbridge.yaml:1: handlers[0] must be text, not 5 (put it in quotes)",
    ),
    "a handler twice": (
        """
        handlers: [shop.tasks, shop.tasks]
        queues: {orders: {backend: store, url: store://host}}
        """,
        "qbridge.yaml:1: handlers[1] is 'shop.tasks', which is named before",
    ),
    "an unknown loop group beside other problems": (
        """
        handlers: [shop.tasks]
        queues: {orders: {backend: store, url: store://host, loops: slow}}
        loops: {fast: {}, default: {threads: 0}}
        """,
        """
        qbridge.yaml:2: queues.orders.loops is 'slow', which is not among the loop groups (known: fast, default)
        qbridge.yaml:3: loops.default.threads must be at least 1, not 0
        """,
    ),
    "everything at once": (
        """
        handlers: shop.tasks
        queues:
          orders:
            backend: redis
            url: redis://localhost
          pictures:
            backend: store
            ur: store://host
            lease: soon
            codec: {type: raw}
            loops: fast
        loop: {}
        shutdown: {grace: '${GRACE}'}
        logging: {level: loud}
        processes: 0
        """,
        """
        qbridge.yaml:1: handlers must be a list, not 'shop.tasks' (write [shop.tasks])
        qbridge.yaml:4: queues.orders.backend is 'redis', which no installed package provides (known: store); install it: pip install "qbridge[redis]"
        qbridge.yaml:6: queues.pictures.url is missing (where the store is, like store://host)
        qbridge.yaml:8: queues.pictures.ur is not a known key (known: backend, codec, loops, max_message_size, read_ahead, stalled_after, url, password, token, key, path, lease, pause, chunk, retries, ratio, durability, streams, region, tags, tls, first, last); did you mean 'url'?
        qbridge.yaml:9: queues.pictures.lease is 'soon', not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s
        qbridge.yaml:10: queues.pictures.codec.task is missing (name of the task that every message of the queue is for)
        qbridge.yaml:11: queues.pictures.loops is 'fast', which is not among the loop groups (known: default)
        qbridge.yaml:12: loop is not a known key (known: handlers, queues, processes, loops, retry, max_crashes, retry_budget, fail_fast, recycle, signing, probes, shutdown, logging); did you mean 'loops'?
        qbridge.yaml:13: shutdown.grace: environment variable GRACE is not set: set it, or write ${GRACE:-default}
        qbridge.yaml:14: logging.level must be one of debug, info, warning, error, not 'loud'
        qbridge.yaml:15: processes must be at least 1, not 0
        """,
    ),
}

#: What stands on line 4, after QUEUES → all that is said about it.
SECTIONS = {
    "an unknown key": (
        "queue: {}",
        "qbridge.yaml:4: queue is not a known key (known: handlers, queues, processes, loops, retry, max_crashes, retry_budget, fail_fast, recycle, signing, probes, shutdown, logging); did you mean 'queues'?",
    ),
    "an unknown key like no other": (
        "zzz: 1",
        "qbridge.yaml:4: zzz is not a known key (known: handlers, queues, processes, loops, retry, max_crashes, retry_budget, fail_fast, recycle, signing, probes, shutdown, logging)",
    ),
    "a merge key": (
        "<<: {a: 1}",
        'qbridge.yaml:4: ["<<"] is not a known key (known: handlers, queues, processes, loops, retry, max_crashes, retry_budget, fail_fast, recycle, signing, probes, shutdown, logging)',
    ),
    "too many processes": (
        "processes: 257",
        "qbridge.yaml:4: processes must be at most 256, not 257",
    ),
    "a loop replaced before it is called blocked": (
        "loops: {default: {blocked_after: 5m}}",
        "qbridge.yaml:4: loops.default: replace_after is 5m, which is not more than blocked_after (5m)",
    ),
    "a short signing key": (
        "signing: {keys: {first: hunter2}}",
        "qbridge.yaml:4: signing.keys.first: a signing key has at least 32 bytes: make one with 'openssl rand -hex 32'",
    ),
    "several signing keys and none to sign with": (
        f"signing: {{keys: {{first: {'a' * 32}, second: {'b' * 32}}}}}",
        "qbridge.yaml:4: signing: sign_with names none of the keys (known: first, second)",
    ),
    "an unknown key to sign with": (
        f"signing: {{keys: {{first: {'a' * 32}}}, sign_with: last}}",
        "qbridge.yaml:4: signing: sign_with names none of the keys (known: first)",
    ),
    "a signing key in place of the section": (
        "signing: hunter2",
        "qbridge.yaml:4: signing must be a mapping, not a text that is not shown",
    ),
    "a process recycled at once": (
        "recycle: {max_rss: 1MiB}",
        "qbridge.yaml:4: recycle.max_rss must be at least 16MiB, not '1MiB'",
    ),
    "probes without a port": (
        "probes: {}",
        "qbridge.yaml:4: probes.port is missing (the port, 1 to 65535)",
    ),
    "processes a text": (
        "processes: four",
        "qbridge.yaml:4: processes must be a whole number, not 'four'",
    ),
    "max_crashes too low": (
        "max_crashes: 1",
        "qbridge.yaml:4: max_crashes must be at least 2, not 1",
    ),
    "max_crashes too high": (
        "max_crashes: 101",
        "qbridge.yaml:4: max_crashes must be at most 100, not 101",
    ),
    "an unknown key in a section": (
        "shutdown: {grase: 5s}",
        "qbridge.yaml:4: shutdown.grase is not a known key (known: grace, cancel_grace, flush); did you mean 'grace'?",
    ),
    "a duration that is none": (
        "shutdown: {grace: soon}",
        "qbridge.yaml:4: shutdown.grace is 'soon', not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s",
    ),
    "a duration below zero": (
        "shutdown: {grace: -1}",
        "qbridge.yaml:4: shutdown.grace is -1: a duration is 0 or more seconds, and at most 100 years",
    ),
    "a duration too long": (
        "shutdown: {grace: 2d}",
        "qbridge.yaml:4: shutdown.grace must be at most 1d, not '2d'",
    ),
    "a duration that is a list": (
        "shutdown: {grace: [5s]}",
        "qbridge.yaml:4: shutdown.grace is a list, not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s",
    ),
    "a duration that is sexagesimal": (
        "shutdown: {grace: 1:30}",
        "qbridge.yaml:4: shutdown.grace is '1:30', not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s",
    ),
    "an unknown level": (
        "logging: {level: warn}",
        "qbridge.yaml:4: logging.level must be one of debug, info, warning, error, not 'warn'; did you mean 'warning'?",
    ),
    "a level that is empty": (
        """
        logging:
          level:
        """,
        "qbridge.yaml:5: logging.level is empty: it must be one of debug, info, warning, error",
    ),
    "an unknown format": (
        "logging: {format: yaml}",
        "qbridge.yaml:4: logging.format must be one of console, json, not 'yaml'",
    ),
    "a section that is a text": (
        "logging: debug",
        "qbridge.yaml:4: logging must be a mapping, not 'debug'",
    ),
    "a section that is empty": (
        "retry:",
        "qbridge.yaml:4: retry is empty: it must be a mapping",
    ),
    "a retry policy out of order": (
        "retry: {base: 10m}",
        "qbridge.yaml:4: retry: base (600s) is over cap (300s): raise cap or lower base",
    ),
    "a retry policy with bad keys": (
        "retry: {max_attempts: 0, backoff: exponental, jitter: yes, cap: -5s}",
        """
        qbridge.yaml:4: retry.max_attempts must be at least 1, not 0
        qbridge.yaml:4: retry.backoff must be one of exponential, linear, constant, not 'exponental'; did you mean 'exponential'?
        qbridge.yaml:4: retry.jitter must be true or false, not 'yes' (write true)
        qbridge.yaml:4: retry.cap is '-5s', not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s
        """,
    ),
    "loops out of bounds": (
        """
        loops:
          default: {threads: 0, concurrency: 100001, worker_threads: 1.5}
        """,
        """
        qbridge.yaml:5: loops.default.threads must be at least 1, not 0
        qbridge.yaml:5: loops.default.concurrency must be at most 100000, not 100001
        qbridge.yaml:5: loops.default.worker_threads must be a whole number, not 1.5
        """,
    ),
    "an unknown loop implementation": (
        "loops: {default: {implementation: uvlop}}",
        "qbridge.yaml:4: loops.default.implementation must be one of auto, asyncio, uvloop, not 'uvlop'; did you mean 'uvloop'?",
    ),
    "no loop group": (
        "loops: {}",
        "qbridge.yaml:4: loops must have at least 1 entry, not 0",
    ),
    "a loop group with a bad name": (
        "loops: {'a b': {}, default: {}}",
        "qbridge.yaml:4: loops[\"a b\"]: a name has 1 to 128 letters, digits, '_', '.', ':' or '-'",
    ),
    "a boolean for a number": (
        "loops: {default: {threads: true}}",
        "qbridge.yaml:4: loops.default.threads must be a whole number, not true",
    ),
    "a quoted number": (
        "loops: {default: {threads: '2'}}",
        "qbridge.yaml:4: loops.default.threads must be a whole number, not '2' (write it without quotes)",
    ),
}


@pytest.mark.parametrize("yaml, problems", FILES.values(), ids=FILES)
def test_a_bad_file_is_told_in_full(yaml: str, problems: str) -> None:
    """Each problem of a file is one line: place, key, what was given, what is known."""
    actual = error_of(text_of(yaml))

    assert text_of(problems).rstrip("\n") == actual


@pytest.mark.parametrize("yaml, problems", SECTIONS.values(), ids=SECTIONS)
def test_a_bad_section_is_told_in_full(yaml: str, problems: str) -> None:
    """Each problem of a section is one line: place, key, what was given, what is known."""
    actual = error_of(QUEUES + text_of(yaml))

    assert text_of(problems).rstrip("\n") == actual
