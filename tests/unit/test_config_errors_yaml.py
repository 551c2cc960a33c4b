"""Bad configurations, each with the exact error: what is not YAML, or not the YAML that is read, and variables."""

# ruff: noqa: E501  # an expected error stands on one line, as people see it

from __future__ import annotations

import pytest

from tests.support.config_backend import error_of, text_of

ENV = {"PORT": "many", "EMPTY": "", "LEVEL": "verbose"}

#: Whole files → all that is said about them.
FILES = {
    "empty": (
        "",
        "qbridge.yaml:1: is empty: a configuration has at least the keys 'handlers' and 'queues'",
    ),
    "comments only": (
        "# nothing",
        "qbridge.yaml:1: is empty: a configuration has at least the keys 'handlers' and 'queues'",
    ),
    "null": (
        "~",
        "qbridge.yaml:1: is empty: a configuration has at least the keys 'handlers' and 'queues'",
    ),
    "a list": (
        """
        - handlers
        - queues
        """,
        "qbridge.yaml:1: must be a mapping with keys like 'queues', not a list",
    ),
    "a text": (
        "handlers",
        "qbridge.yaml:1: must be a mapping with keys like 'queues', not a single value",
    ),
    "two documents": (
        """
        handlers: [a]
        ---
        queues: {}
        """,
        "qbridge.yaml:2: a second document starts here: a configuration is one document",
    ),
    "a tab": (
        "handlers: [a]\nqueues:\n\torders: {}",
        "qbridge.yaml:3:1: not YAML: a tab can't indent: write spaces",
    ),
    "a colon in a text": (
        """
        handlers: [a]
        queues:
          orders: {backend: store, url: store://host}
          backend: a: b
        """,
        "qbridge.yaml:4:13: not YAML: a colon can't stand here: quote the text it belongs to, or check the indentation here and one line above",
    ),
    "an open bracket": (
        """
        handlers: [a
        queues: {}
        """,
        "qbridge.yaml:2:7: not YAML: expected ',' or ']', but got ':', in the list that starts on line 1",
    ),
    "an open quote": (
        "handlers: ['a]",
        "qbridge.yaml:1:12: not YAML: the quote that is opened here is never closed",
    ),
    "a dash after a key": (
        "handlers: - a",
        "qbridge.yaml:1:11: not YAML: a dash can't stand here: start the list on a line of its own",
    ),
    "an at sign": (
        "handlers: [@a]",
        "qbridge.yaml:1:12: not YAML: a text that begins with @ needs quotes",
    ),
    "bad indentation": (
        """
        queues:
            orders: {}
          pictures: {}
        """,
        "qbridge.yaml:3:3: not YAML: this line doesn't belong to the mapping that starts on line 1: check the indentation",
    ),
    "a control character": (
        "handlers: [a\x07]",
        "qbridge.yaml:1:13: not YAML: character U+0007 is not allowed",
    ),
    "an unquoted variable in braces": (
        """
        queues:
          orders: {backend: store, url: ${URL}}
        """,
        'qbridge.yaml:2:34: not YAML: between braces or brackets a variable needs quotes: "${NAME}"',
    ),
    "a key twice": (
        """
        handlers: [shop.tasks]
        queues:
          orders: {backend: store, url: store://host}
        queues: {}
        """,
        "qbridge.yaml:4: queues is given twice (first on line 2)",
    ),
    "a queue twice": (
        """
        handlers: [shop.tasks]
        queues:
          orders: {backend: store, url: store://a}
          pictures: {backend: store, url: store://b}
          orders: {backend: store, url: store://c}
        """,
        "qbridge.yaml:5: queues.orders is given twice (first on line 3)",
    ),
    "an anchor and an alias": (
        """
        handlers: [shop.tasks]
        queues:
          orders: &first {backend: store, url: store://host}
          pictures: *first
        """,
        """
        qbridge.yaml:3: queues.orders: anchors and aliases (&first) are not read: repeat the value
        qbridge.yaml:4: queues.pictures: anchors and aliases (*first) are not read: repeat the value
        """,
    ),
    "a tag": (
        """
        handlers: [shop.tasks]
        queues:
          orders:
            backend: store
            url: store://host
            key: !!python/name:os.system x
        """,
        "qbridge.yaml:6: queues.orders.key: tags (the word after !) are not read: remove it",
    ),
    "a key that is a list": (
        """
        handlers: [shop.tasks]
        queues:
          orders: {backend: store, url: store://host}
        ? [a, b]
        : 1
        """,
        "qbridge.yaml:4: a key must be a plain text",
    ),
    "half a character": (
        r"""
        handlers: [shop.tasks]
        queues:
          orders:
            backend: store
            url: store://host
            key: "\ud800"
        """,
        "qbridge.yaml:6: queues.orders.key is not valid Unicode text",
    ),
    "too deep": (
        """
        handlers: [shop.tasks]
        queues:
          orders: {backend: store, url: store://host}
        logging: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]
        """,
        "qbridge.yaml:4: is more than 20 levels deep, which no configuration needs",
    ),
    "a variable that is not set": (
        """
        handlers: [shop.tasks]
        queues:
          orders:
            backend: store
            url: store://host
            key: ${KEY}
            password: ${PASSWORD}
        """,
        """
        qbridge.yaml:6: queues.orders.key: environment variable KEY is not set: set it, or write ${KEY:-default}
        qbridge.yaml:7: queues.orders.password: environment variable PASSWORD is not set: set it, or write ${PASSWORD:-default}
        """,
    ),
    "a nested variable": (
        """
        handlers: [shop.tasks]
        queues:
          orders:
            backend: store
            url: store://host
            key: ${KEY:-${OTHER}}
        """,
        "qbridge.yaml:6: queues.orders.key: the default of ${KEY} holds another reference; references don't nest",
    ),
    "a nameless variable": (
        """
        handlers: [shop.tasks]
        queues:
          orders:
            backend: store
            url: store://host
            key: ${}
            path: ${KEY
            token: ${KEY-default}
        """,
        """
        qbridge.yaml:6: queues.orders.key: a ${ has no name and } after it: write ${NAME} or ${NAME:-default}, or $${ for a literal ${
        qbridge.yaml:7: queues.orders.path: a ${ has no name and } after it: write ${NAME} or ${NAME:-default}, or $${ for a literal ${
        qbridge.yaml:8: queues.orders.token: a ${ has no name and } after it: write ${NAME} or ${NAME:-default}, or $${ for a literal ${
        """,
    ),
    "a number from a variable": (
        """
        handlers: [shop.tasks]
        queues:
          orders:
            backend: store
            url: store://host
            retries: ${PORT}
            streams: ${EMPTY:-none}
        """,
        """
        qbridge.yaml:6: queues.orders.retries must be a whole number, not the value of ${PORT}
        qbridge.yaml:7: queues.orders.streams must be a whole number or auto, not the value of ${EMPTY}
        """,
    ),
    "a choice from a variable": (
        """
        handlers: [shop.tasks]
        queues:
          orders: {backend: store, url: store://host}
        logging: {level: '${LEVEL}'}
        """,
        "qbridge.yaml:4: logging.level must be one of debug, info, warning, error, not the value of ${LEVEL}",
    ),
    "a text of two variables": (
        """
        handlers: [shop.tasks]
        queues:
          orders:
            backend: store
            url: store://host
            lease: ${PORT}${LEVEL}
        """,
        "qbridge.yaml:6: queues.orders.lease is the value of ${PORT} and ${LEVEL}, not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s",
    ),
    "a backend from a variable": (
        """
        handlers: [shop.tasks]
        queues:
          orders: {backend: '${LEVEL}'}
        """,
        "qbridge.yaml:3: queues.orders.backend is the value of ${LEVEL}, which no installed package provides (known: store)",
    ),
}


@pytest.mark.parametrize("yaml, problems", FILES.values(), ids=FILES)
def test_a_bad_document_is_told_in_full(yaml: str, problems: str) -> None:
    """Each problem is one line with the place in the file, and none of them shows the value of a variable."""
    actual = error_of(text_of(yaml), ENV)

    assert text_of(problems).rstrip("\n") == actual
