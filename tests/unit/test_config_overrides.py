"""Bad overrides, each with the exact error: environment variables with two underscores, and flags."""

from __future__ import annotations

import pytest

from tests.support.config_backend import error_of, text_of

YAML = """\
handlers: [shop.tasks]
queues:
  orders: {backend: store, url: store://host}
  a-b: {backend: store, url: store://host}
  a.b: {backend: store, url: store://host}
shutdown: {grace: 1s}
retry: {cap: 1m}
"""

#: Variable and its value → all that is said about it.
VARIABLES = {
    "an unknown key": (
        ("QBRIDGE_LOGGING__LEVL", "debug"),
        "logging.levl is not a known key (known: level, format); did you mean 'level'?",
    ),
    "an unknown section": (
        ("QBRIDGE_LOGGNG__LEVEL", "debug"),
        "loggng is not a known key (known: handlers, queues, processes, loops, retry, max_crashes, "
        "retry_budget, fail_fast, recycle, signing, probes, shutdown, logging); did you mean 'logging'?",
    ),
    "a value that doesn't fit": (
        ("QBRIDGE_LOGGING__LEVEL", "warn"),
        "logging.level must be one of debug, info, warning, error, not 'warn'; did you mean 'warning'?",
    ),
    "a number that doesn't fit": (
        ("QBRIDGE_LOOPS__DEFAULT__THREADS", "0"),
        "loops.default.threads must be at least 1, not 0",
    ),
    "a text for a number": (
        ("QBRIDGE_LOOPS__DEFAULT__THREADS", "many"),
        "loops.default.threads must be a whole number, not 'many'",
    ),
    "nothing": (
        ("QBRIDGE_LOGGING__FORMAT", ""),
        "logging.format is empty: it must be one of console, json",
    ),
    "a value that doesn't fit the file's": (
        ("QBRIDGE_RETRY__BASE", "5m"),
        "retry: base (300s) is over cap (60s): raise cap or lower base",
    ),
    "an unknown queue": (
        ("QBRIDGE_QUEUES__ORDRS__KEY", "x"),
        "queues.ordrs is not in the configuration (known: orders, a-b, a.b); did you mean 'orders'?",
    ),
    "an unknown loop group": (
        ("QBRIDGE_LOOPS__FAST__THREADS", "2"),
        "loops.fast is not in the configuration (known: default)",
    ),
    "a name that two queues have": (
        ("QBRIDGE_QUEUES__A_B__KEY", "x"),
        "queues.a_b could be a-b or a.b: rename one of them",
    ),
    "a queue without a key": (
        ("QBRIDGE_QUEUES__ORDERS", "store"),
        "queues.orders is a mapping: name one of its keys",
    ),
    "a key of a setting that has none": (
        ("QBRIDGE_HANDLERS__FIRST", "shop"),
        "handlers has no keys of its own",
    ),
    "half a character": (
        ("QBRIDGE_QUEUES__ORDERS__KEY", "\udc80"),
        "queues.orders.key is not valid Unicode text",
    ),
}

#: Dotted key and its value → all that is said about it.
FLAGS = {
    "an unknown key": (
        ("shutdown.grase", "5s"),
        "shutdown.grase is not a known key (known: grace, cancel_grace, flush); did you mean 'grace'?",
    ),
    "a value that doesn't fit": (
        ("shutdown.grace", "soon"),
        "shutdown.grace is 'soon', not a duration: write a number of seconds, or a number with ms, s, m, h or d,"
        " like 25s",
    ),
    "a value of a wrong type": (
        ("logging.level", 5),
        "logging.level must be one of debug, info, warning, error, not 5",
    ),
    "an unknown queue": (
        ("queues.order.key", "x"),
        "queues.order is not in the configuration (known: orders, a-b, a.b); did you mean 'orders'?",
    ),
    "a section": (
        ("shutdown", "5s"),
        "shutdown is a mapping: name one of its keys",
    ),
}


@pytest.mark.parametrize("given, problem", VARIABLES.values(), ids=VARIABLES)
def test_a_bad_variable_is_told_by_its_name(given: tuple[str, str], problem: str) -> None:
    """The place of the problem is the variable, not the file."""
    variable, value = given

    actual = error_of(YAML, {variable: value})

    assert f"environment variable {variable}: {problem}" == actual


@pytest.mark.parametrize("given, problem", FLAGS.values(), ids=FLAGS)
def test_a_bad_flag_is_told_by_its_key(given: tuple[str, object], problem: str) -> None:
    """The place of the problem is the override, not the file."""
    key, value = given

    actual = error_of(YAML, overrides={key: value})

    assert f"override {key}: {problem}" == actual


def test_problems_of_all_layers_are_told_in_order() -> None:
    """First the file by its lines, then variables by their names, then flags."""
    env = {"QBRIDGE_SHUTDOWN__X": "1", "QBRIDGE_RETRY__X": "1", "QBRIDGE_QUEUES__X__Y": "1"}

    actual = error_of(YAML + "max_crashes: 0\n", env, {"retry.y": 1, "logging.z": 1})

    expected = [
        "qbridge.yaml:8",
        "environment variable QBRIDGE_QUEUES__X__Y",
        "environment variable QBRIDGE_RETRY__X",
        "environment variable QBRIDGE_SHUTDOWN__X",
        "override retry.y",
        "override logging.z",
    ]
    assert expected == [line.partition(": ")[0] for line in actual.splitlines()]


def test_an_override_of_what_the_file_got_wrong_repairs_it() -> None:
    """The weaker value is not looked at."""
    yaml = text_of(
        """
        handlers: []
        queues: {orders: {backend: store, url: store://host}}
        logging: {level: loud}
        max_crashes: 0
        """
    )

    actual = error_of(yaml, {"QBRIDGE_LOGGING__LEVEL": "info"})

    assert "qbridge.yaml:4: max_crashes must be at least 2, not 0" == actual
