"""The log of a service: one event a line, values as they were given, and nothing that could pass for another event."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator

import pytest

from qbridge.logs import configure_logging

log = logging.getLogger("shop")


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    """Logging of the test run is as it was before."""
    root = logging.getLogger()
    before = (
        root.handlers[:],
        root.level,
        {name: logging.getLogger(name).level for name in ("asyncio", "pika")},
    )
    yield
    root.handlers[:], level, levels = before
    root.setLevel(level)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def raised(error: Exception) -> Exception:
    """Return an error with the traceback that it has when it was raised."""
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


def lines(captured: pytest.CaptureFixture[str]) -> list[str]:
    """Return what was logged, less the times, as lines of a file."""
    out, err = captured.readouterr()
    assert "" == out
    return [re.sub(r"^\d\d:\d\d:\d\d\.\d{3} ", "", line) for line in err.split("\n")[:-1]]


def test_an_event_is_one_line_with_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Level, text, then each value under its name; values with blanks are quoted."""
    configure_logging("info", "console")
    log.info("source lost", extra={"queue": "orders", "delay": 0.25, "reason": "not here", "empty": "", "none": None})
    log.warning("%d things", 2)

    assert [
        'info    source lost queue=orders delay=0.25 reason="not here" empty="" none=None',
        "warning 2 things",
    ] == lines(capsys)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two\nlines", '"two\\nlines"'),
        ("bell\x07", '"bell\\u0007"'),
        ("\x1b[31mred", '"\\u001b[31mred"'),
        ("next\x85line", '"next\\u0085line"'),
        ("\x9b31m", '"\\u009b31m"'),
        ("separated\u2028", '"separated\\u2028"'),
        ("\u202eforged", '"\\u202eforged"'),
        ("delete\x7f", '"delete\\u007f"'),
        ("Grüße", "Grüße"),
        ("zwei Grüße", '"zwei Grüße"'),
    ],
)
def test_a_value_can_t_break_its_line(capsys: pytest.CaptureFixture[str], value: str, shown: str) -> None:
    """Whatever text a broker or a message brings: it stays within its line, and moves no cursor."""
    configure_logging("info", "console")
    log.info("told", extra={"value": value})

    assert [f"info    told value={shown}"] == lines(capsys)


def test_an_error_s_traceback_stands_below_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line of an error is its value; what follows is set in, so that it can't pass for an event."""
    configure_logging("info", "console")
    forged = "ValueError: no\n12:00:00.000 info    all is well\n\x1b[2J"

    log.warning("task failed", extra={"error": forged})
    log.info("next")

    assert [
        'warning task failed error="ValueError: no"',
        "  12:00:00.000 info    all is well",
        "  \\x1b[2J",
        "info    next",
    ] == lines(capsys)


def test_a_text_of_several_lines_is_set_in_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Other libraries log texts of several lines; only the first one looks like an event."""
    configure_logging("info", "console")
    log.error("it broke\n12:00:00.000 info    all is well", extra={"queue": "orders"})

    assert ["error   it broke queue=orders", "  12:00:00.000 info    all is well"] == lines(capsys)


def test_an_exception_is_told_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """What is logged with an exception has its traceback below it."""
    configure_logging("info", "console")
    log.error("it broke", exc_info=raised(ValueError("no\nluck")))

    logged = lines(capsys)
    assert ["error   it broke", "  Traceback (most recent call last):"] == logged[:2]
    assert ["  ValueError: no", "  luck"] == logged[-2:]


def test_a_stack_stands_below_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What a blocked thread was doing is read line by line, and can't pass for an event."""
    configure_logging("info", "console")
    log.warning("blocked", extra={"stack": "  File x\n12:00:00.000 info    all is well", "queue": "orders"})
    log.info("not blocked", extra={"stack": ""})

    assert [
        "warning blocked queue=orders",
        "    File x",
        "  12:00:00.000 info    all is well",
        "info    not blocked",
    ] == lines(capsys)


def test_json_has_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Each event is an object with time, level, logger, message and its values, whatever characters they hold."""
    configure_logging("info", "json")
    log.warning(
        "source lost\nreally", extra={"queue": "orders", "delay": 0.25, "error": "two\nlines\u2028", "path": object}
    )
    log.info("next")

    first, second = (json.loads(line) for line in lines(capsys))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time"))
    assert {
        "level": "warning",
        "logger": "shop",
        "message": "source lost\nreally",
        "queue": "orders",
        "delay": 0.25,
        "error": "two\nlines\u2028",
        "path": "<class 'object'>",
    } == first
    assert "next" == second["message"]


def test_json_has_the_traceback_in_its_object(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception doesn't spread over further lines."""
    configure_logging("info", "json")
    log.error("it broke", exc_info=raised(ValueError("no")))

    [line] = lines(capsys)
    assert json.loads(line)["traceback"].startswith("Traceback (most recent call last):\n")
    assert json.loads(line)["traceback"].endswith("ValueError: no")


@pytest.mark.parametrize(("level", "told"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_what_is_below_the_level_is_not_told(capsys: pytest.CaptureFixture[str], level: str, told: int) -> None:
    """The level is that of the whole process."""
    configure_logging(level, "console")

    log.debug("debug")
    log.info("info")
    log.warning("warning")
    log.error("error")

    assert told == len(lines(capsys))


def test_a_second_configuration_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """No event is told twice."""
    configure_logging("info", "console")
    configure_logging("info", "console")

    log.info("once")

    assert ["info    once"] == lines(capsys)


def test_polling_of_event_loops_is_not_told_even_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    """At debug the worker tells of each task; asyncio's own debug lines would drown it."""
    configure_logging("debug", "console")

    logging.getLogger("asyncio").debug("poll took 0.1 ms")
    log.debug("task ended")

    assert ["debug   task ended"] == lines(capsys)


@pytest.mark.parametrize(("level", "told"), [("info", []), ("debug", ["error   connection failed"])])
def test_client_libraries_are_told_at_debug_only(
    capsys: pytest.CaptureFixture[str], level: str, told: list[str]
) -> None:
    """What fails in a client library is told by the backend that handles it, once."""
    configure_logging(level, "console")

    logging.getLogger("pika.adapters").error("connection failed")

    assert told == lines(capsys)


def test_each_line_of_a_worker_tells_its_process(capsys: pytest.CaptureFixture[str]) -> None:
    """One of several worker processes says which one it is, in front of what it says."""
    configure_logging("info", "console", worker=3)
    log.info("source lost", extra={"queue": "orders"})

    assert [f"info    [3/{os.getpid()}] source lost queue=orders"] == lines(capsys)


def test_each_object_of_a_worker_tells_its_process(capsys: pytest.CaptureFixture[str]) -> None:
    """In JSON the worker and its process are values of their own; a single process has none of them."""
    configure_logging("info", "json", worker=3)
    log.info("source lost", extra={"queue": "orders"})
    configure_logging("info", "json")
    log.info("source lost", extra={"queue": "orders"})

    of_worker, single = (json.loads(line) for line in capsys.readouterr().err.splitlines())

    assert (3, os.getpid(), "orders") == (of_worker["worker"], of_worker["pid"], of_worker["queue"])
    assert not {"worker", "pid"} & single.keys()
