"""`qbridge send`: what a command line becomes in the queue."""

from __future__ import annotations

import re
import signal
import time
from typing import Any

import pytest

from qbridge.service import ExitCode
from tests.support.cli import PATIENCE, ServiceFolder, service

__all__ = ["service"]

LOOSE_HANDLERS = """
    from typing import Any
    from qbridge import HandlerRegistry

    registry = HandlerRegistry()
    print("imported")

    @registry.task
    async def take(*args: Any, **kwargs: Any) -> None: ...

    @registry.task
    async def weigh(payload: bytes) -> None: ...
"""

ARGUMENTS: list[tuple[str | None, list[Any], dict[str, Any]]] = [
    (None, [], {}),
    ('{"a": 1, "b": [2]}', [], {"a": 1, "b": [2]}),
    ("{}", [], {}),
    ('[1, {"a": 2}]', [1, {"a": 2}], {}),
    ("[]", [], {}),
    ("[[1, 2]]", [[1, 2]], {}),
    ("5", [5], {}),
    ("-0.5", [-0.5], {}),
    ('"äöü 😀"', ["äöü 😀"], {}),
    ("true", [True], {}),
    ("null", [None], {}),
    (' {"a" : 1} ', [], {"a": 1}),
    ("123456789012345678901234567890", [123456789012345678901234567890], {}),
]


@pytest.mark.parametrize(("value", "args", "kwargs"), ARGUMENTS, ids=[str(value) for value, _, _ in ARGUMENTS])
def test_json_says_the_arguments(
    service: ServiceFolder, value: str | None, args: list[Any], kwargs: dict[str, Any]
) -> None:
    """An object is the named arguments, an array the positional ones, anything else the only one; nothing is none."""
    service.write("shop_tasks.py", LOOSE_HANDLERS)

    ended = service.invoke("send", "take", *(() if value is None else ("--", value)))

    [message] = service.take(count=2)
    assert (ExitCode.OK, f"{message.id}\n") == (ended.code, ended.out)
    assert ("take", args, kwargs) == (message.task, message.args, message.kwargs)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("5", b"5"),
        ("[1, 2]", b"[1,2]"),
        ('{"a": 1}', b'{"a":1}'),
        ('"text"', b"text"),
        ('"5"', b'"5"'),
        ("null", b"null"),
    ],
)
def test_a_raw_queue_takes_any_json_as_its_payload(service: ServiceFolder, value: str, body: bytes) -> None:
    """On a queue with the raw codec, JSON is the payload: a text goes as it is, unless it would be read as JSON."""
    service.write("shop_tasks.py", LOOSE_HANDLERS)
    service.write(
        "qbridge.yaml",
        """
        handlers: [shop_tasks]
        queues:
          weights: {backend: sqlite, path: ./q.db, codec: {type: raw, task: weigh}}
        """,
    )

    ended = service.invoke("send", "weigh", value)

    [message] = service.take()
    assert (ExitCode.OK, [body]) == (ended.code, message.args)


def test_standard_output_has_the_id_alone(service: ServiceFolder) -> None:
    """What the handlers' modules print when they are imported goes to standard error."""
    service.write("shop_tasks.py", LOOSE_HANDLERS)

    ended = service.invoke("send", "take")

    assert re.fullmatch("[0-9a-f]{32}\n", ended.out)
    assert "imported\n" == ended.err


def test_no_check_sends_what_no_handler_here_knows(service: ServiceFolder) -> None:
    """Without the check no module is imported, and a task of another service goes its way."""
    service.write("shop_tasks.py", "import nowhere")

    ended = service.invoke("send", "--no-check", "elsewhere", '{"a": 1}')

    [message] = service.take()
    assert (ExitCode.OK, f"{message.id}\n", "") == (ended.code, ended.out, ended.err)
    assert ("elsewhere", {"a": 1}) == (message.task, message.kwargs)


def test_a_delayed_task_waits(service: ServiceFolder) -> None:
    """With --delay the broker keeps the task for that long; a number means seconds."""
    codes = [service.invoke("send", "cleanup", "--delay", delay).code for delay in ("2h", "90", "500ms", "0.5")]

    assert [ExitCode.OK] * 4 == codes
    assert (0, 4) == (service.stats().ready, service.stats().delayed)


def test_the_queue_is_the_one_that_is_named(service: ServiceFolder) -> None:
    """--queue chooses among several; without it the one called default is taken."""
    service.write(
        "qbridge.yaml",
        """
        handlers: [shop_tasks]
        queues:
          other: {backend: sqlite, path: ./q.db}
          default: {backend: sqlite, path: ./q.db}
        """,
    )

    named = service.invoke("send", "cleanup", "--queue", "other")
    unnamed = service.invoke("send", "cleanup")

    assert [named.out] == [f"{message.id}\n" for message in service.take("other", count=9)]
    assert [unnamed.out] == [f"{message.id}\n" for message in service.take("default", count=9)]


def test_lines_are_sent_in_order(service: ServiceFolder) -> None:
    """Each line is a task, whatever its form; blank lines are skipped, and the ids are printed in the same order."""
    lines = '{"name": "a"}\n\n["b", 2]\r\n   \n"c"\n{"name": "d"}'

    ended = service.run("send", "greet", "--lines", stdin=lines)

    messages = service.take(count=9)
    assert (ExitCode.OK, "") == (ended.code, ended.err)
    assert ended.out.split() == [message.id for message in messages]
    assert [({"name": "a"}, []), ({}, ["b", 2]), ({}, ["c"]), ({"name": "d"}, [])] == [
        (message.kwargs, message.args) for message in messages
    ]


def test_a_bad_line_ends_the_sending(service: ServiceFolder) -> None:
    """What stands before a bad line is sent, nothing after it, and both is told with the line's number."""
    lines = '"a"\n\n"b"\n{"nam": "c"}\n"d"\n'

    ended = service.run("send", "greet", "--lines", stdin=lines)

    assert [
        "error: standard input, line 4: arguments of task 'greet' don't fit: name: Missing required argument; "
        "nam: Unexpected keyword argument",
        "error: 2 tasks were sent before it, nothing after it",
    ] == ended.errors
    assert ExitCode.USAGE == ended.code
    assert [["a"], ["b"]] == [message.args for message in service.take(count=9)]
    assert 2 == len(ended.out.split())


def test_a_bad_line_among_thousands_is_found(service: ServiceFolder) -> None:
    """The number of a bad line is right in a later batch, and all lines before it are sent."""
    lines = [f'"{number}"' for number in range(3000)]
    lines[2345] = "oops"

    ended = service.run("send", "greet", "--lines", stdin="\n".join(lines))

    assert [
        "error: standard input, line 2346: 'oops' is not JSON: expected value at line 1 column 1 "
        "(a text needs quotes of its own: '\"oops\"')",
        "error: 2345 tasks were sent before it, nothing after it",
    ] == ended.errors
    assert 2345 == len(ended.out.split()) == service.stats().ready


def test_bytes_that_are_no_text_are_no_json(service: ServiceFolder) -> None:
    """A line in some other encoding is a bad line, not a crash."""
    ended = service.run("send", "greet", "--lines", stdin='"ä"\n'.encode("latin-1"))

    assert ExitCode.USAGE == ended.code
    assert ended.errors[0].startswith("error: standard input, line 1: ")
    assert "error: 0 tasks were sent before it, nothing after it" == ended.errors[1]


def test_no_lines_send_nothing(service: ServiceFolder) -> None:
    """An empty input is no error."""
    ended = service.run("send", "greet", "--lines")

    assert (ExitCode.OK, "", "") == (ended.code, ended.out, ended.err)


def test_a_broker_without_room_is_told_with_what_is_unknown(service: ServiceFolder) -> None:
    """If a batch can't be sent, it is told how many were sent and of how many nobody knows."""
    service.write(
        "qbridge.yaml",
        """
        handlers: [shop_tasks]
        queues:
          default: {backend: sqlite, path: ./q.db, max_size: 300KiB}
        """,
    )
    lines = "\n".join(f'"{"x" * 200}"' for _ in range(3000))

    ended = service.run("send", "greet", "--lines", stdin=lines)

    accepted = len(ended.out.split())
    assert ExitCode.FAILURE == ended.code
    assert ended.errors[0].startswith("error: the messages in the file take ")
    told = re.fullmatch(
        r"error: (\d+) tasks were sent, and it is not known whether the broker has the (\d+) tasks after them",
        ended.errors[1],
    )
    assert told is not None
    assert accepted == int(told[1])
    assert accepted <= service.stats().ready <= accepted + int(told[2])
    assert ended.out.split() == [message.id for message in service.take(count=accepted)]


def test_a_lone_line_is_sent_at_once(service: ServiceFolder) -> None:
    """A line travels when it comes, not when a batch is full or the input ends."""
    with service.start("send", "greet", "--lines") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'"a"\n')
        process.stdin.flush()
        began = time.monotonic()
        first = process.stdout.readline().decode().strip()
        waited = time.monotonic() - began
        ready = service.stats().ready
        process.stdin.write(b'"b"')
        process.stdin.close()
        second = process.stdout.read().decode().strip()
        code = process.wait(PATIENCE)

    assert 1 == ready
    assert waited < 20
    assert ExitCode.OK == code
    assert [first, second] == [message.id for message in service.take(count=9)]


def test_ctrl_c_while_waiting_for_lines_is_quiet(service: ServiceFolder) -> None:
    """Who ends a send with Ctrl-C sees no traceback; what was sent stays sent."""
    with service.start("send", "greet", "--lines") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b'"a"\n')
        process.stdin.flush()
        process.stdout.readline()

        process.send_signal(signal.SIGINT)
        code = process.wait(PATIENCE)
        errors = process.stderr.read()

    assert (130, b"") == (code, errors)
    assert 1 == service.stats().ready


def test_progress_is_shown_on_a_terminal_only(service: ServiceFolder) -> None:
    """On a terminal a bar shows how many were sent; into a pipe nothing but ids and errors is written."""
    names = service.write("names.jsonl", "\n".join(f'"{number}"' for number in range(2500)))
    ids = service.path / "ids.txt"

    ended = service.run_on_terminal("send", "greet", "--lines", stdin=names, stdout=ids)

    assert ExitCode.OK == ended.code
    assert "2,500 sent" in ended.out
    assert 2500 == len(ids.read_text().split()) == service.stats().ready
