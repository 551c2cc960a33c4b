"""The log of a service: what it tells of other libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from qbridge.logs import configure_logging

LOGGERS = ("", "asyncio", "pika", "redis")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Loggers are the process's: what a test does to them is undone."""
    handlers = logging.getLogger().handlers[:]
    levels = [logging.getLogger(name).level for name in LOGGERS]

    yield

    logging.getLogger().handlers[:] = handlers
    for name, level in zip(LOGGERS, levels, strict=True):
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("client", ["pika.adapters.base_connection", "redis.asyncio"])
def test_a_client_library_is_not_told_of(client: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What fails in a client library is told by us, once: its own errors stay out of the log, a handler's stay in."""
    configure_logging("info", "console")

    logging.getLogger(client).error("Socket failed to connect")
    logging.getLogger("shop.tasks").error("out of stock")

    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("error   out of stock")


def test_debug_tells_of_client_libraries_but_not_of_each_frame(capsys: pytest.CaptureFixture[str]) -> None:
    """With `debug` a client library's lines are told from `info` on: below it there may be credentials."""
    configure_logging("debug", "console")

    logging.getLogger("pika.connection").info("connecting")
    logging.getLogger("pika.connection").debug("guest:guest")

    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("info    connecting")
