"""Wrong command lines and configurations: what is told, word for word, and with which exit code."""

from __future__ import annotations

import re

import pytest

from qbridge.discovery import installed_backends
from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service

__all__ = ["service"]

SEVERAL = """
    handlers: [shop_tasks]
    queues:
      orders: {backend: sqlite, path: ./q.db}
      pictures: {backend: sqlite, path: ./q.db}
"""

RAW = """
    handlers: [shop_tasks]
    queues:
      numbers: {backend: sqlite, path: ./q.db, codec: {type: raw, task: count}}
"""

MEMORY = """
    handlers: [shop_tasks]
    queues:
      default: {backend: memory}
"""

SMALL = """
    handlers: [shop_tasks]
    queues:
      default: {backend: sqlite, path: ./q.db, max_message_size: 1KiB, codec: {type: raw, task: count}}
"""

NO_FOLDER = """
    handlers: [shop_tasks]
    queues:
      default: {backend: sqlite, path: ./none/q.db}
"""

UNREACHABLE = """
    handlers: [shop_tasks]
    queues:
      default: {backend: redis, url: "redis://127.0.0.1:1/0"}
"""

#: What the parser says of it is its own; that it is told in our way is ours.
UNPARSABLE: list[tuple[str, str]] = [
    ("--nope", "error: no such option: --nope"),
    ("sendd", "error: no such command 'sendd'"),
    ("send", "error: missing argument 'TASK'"),
    ("send greet {} more", "error: got unexpected extra argument"),
    ("run --config", "error: option '--config' requires an argument"),
    ("run --log-level loud", "error: invalid value for '--log-level'"),
    ("queues --format xml", "error: invalid value for '--format'"),
    ("dead list", "error: missing argument 'QUEUE'"),
    ("dead list default --limit 0", "error: invalid value for '--limit'"),
    ("dead lst default", "error: no such command 'lst'"),
]

DURATION_RULE = "not a duration: write a number of seconds, or a number with ms, s, m, h or d, like 25s"

USAGE: list[tuple[str, str, list[str]]] = [
    (
        "run --set grace",
        "",
        ["invalid value for '--set': 'grace' is not KEY=VALUE, such as shutdown.grace=10s (see 'qbridge run --help')"],
    ),
    (
        "send cleanup --delay soon",
        "",
        [f"invalid value for '--delay': 'soon' is {DURATION_RULE} (see 'qbridge send --help')"],
    ),
    (
        "send cleanup --delay=-1",
        "",
        [f"invalid value for '--delay': '-1' is {DURATION_RULE} (see 'qbridge send --help')"],
    ),
    (
        "send cleanup --delay 99999999999d",
        "",
        [
            "invalid value for '--delay': '99999999999d': a duration is 0 or more seconds, and at most 100 years "
            "(see 'qbridge send --help')"
        ],
    ),
    ("send cleanup 1 --lines", "", ["invalid value for 'JSON': not together with --lines (see 'qbridge send --help')"]),
    (
        "send gret",
        "",
        ["no handler is registered for task 'gret' (known: cleanup, count, greet, refuse); did you mean 'greet'?"],
    ),
    (
        "send billing",
        "",
        [
            "no handler is registered for task 'billing' (known: cleanup, count, greet, refuse)",
            "to send a task that another service runs, add --no-check",
        ],
    ),
    (
        "send greet ada",
        "",
        ["'ada' is not JSON: expected value at line 1 column 1 (a text needs quotes of its own: '\"ada\"')"],
    ),
    ("send greet {name}", "", ["'{name}' is not JSON: key must be a string at line 1 column 2"]),
    (
        'send greet {"nam":"ada","times":"x"}',
        "",
        [
            "arguments of task 'greet' don't fit: name: Missing required argument",
            "arguments of task 'greet' don't fit: times: Input should be a valid integer, "
            "unable to parse string as an integer",
            "arguments of task 'greet' don't fit: nam: Unexpected keyword argument",
        ],
    ),
    (
        "send count -- -1",
        "",
        ["arguments of task 'count' don't fit: number: Input should be greater than or equal to 0"],
    ),
    ("send cleanup null", "", ["arguments of task 'cleanup' don't fit: 0: Unexpected positional argument"]),
    (
        "send --no-check a/b",
        "",
        ["'a/b' is not a task name: use 1 to 128 of A-Z, a-z, 0-9, '_', '.', ':' and '-'"],
    ),
    ("send cleanup --queue orders", "", ["no queue is named 'orders' (known: default)"]),
    ("send cleanup", SEVERAL, ["choose one with --queue (known: orders, pictures)"]),
    ("send cleanup -q order", SEVERAL, ["no queue is named 'order' (known: orders, pictures); did you mean 'orders'?"]),
    (
        "send cleanup",
        MEMORY,
        [
            "queue 'default': backend memory keeps its messages in the worker's process, where no other command can "
            "reach them; send from a handler, or give the queue another backend"
        ],
    ),
    ("send greet 1", RAW, ["a raw queue carries only task 'count', not 'greet': send it to another queue"]),
    ("send count", RAW, ["a raw queue carries one positional argument, not 0 positional and 0 named ones"]),
    ("send count [1]", RAW, ["arguments of task 'count' don't fit: number: Input should be a valid integer"]),
    (
        f"send count {'1' * 2000}",
        SMALL,
        ["message has 2000 bytes, over the limit of 1024 (raise max_message_size of the queue)"],
    ),
    ("dead list ordres", SEVERAL, ["no queue is named 'ordres' (known: orders, pictures); did you mean 'orders'?"]),
    ("dead retry default", "", ["name dead letters by their ids, or say --all"]),
    ("dead purge default a --all", "", ["name dead letters or say --all, not both"]),
    ("dead purge default --all", "", ["purge deletes for good, and nobody can be asked here: add --yes"]),
    (
        "dead list default",
        MEMORY,
        [
            "queue 'default': backend memory keeps its messages in the worker's process, where no other command can "
            "reach them"
        ],
    ),
]


IMPORTS: list[tuple[str, str]] = [
    (
        "import nowhere",
        "handlers: module 'shop_tasks' can't be imported: ModuleNotFoundError: No module named 'nowhere'",
    ),
    ("1 / 0", "handlers: module 'shop_tasks' can't be imported: ZeroDivisionError: division by zero"),
    ("import sys; sys.exit(3)", "handlers: module 'shop_tasks' can't be imported: SystemExit: 3"),
    ("def f(:", "handlers: module 'shop_tasks' can't be imported: SyntaxError: invalid syntax"),
    ("handlers = 1", "handlers: module 'shop_tasks' holds no HandlerRegistry"),
]


@pytest.mark.parametrize(("line", "beginning"), UNPARSABLE)
def test_what_cannot_be_parsed_ends_with_2(service: ServiceFolder, line: str, beginning: str) -> None:
    """A command line that the parser refuses is told in one plain line."""
    ended = service.invoke(*line.split(" "))

    [told] = ended.errors
    assert told.startswith(beginning)
    assert (ExitCode.USAGE, "") == (ended.code, ended.out)


@pytest.mark.parametrize(("line", "yaml", "problems"), USAGE, ids=[line[:40] for line, _, _ in USAGE])
def test_what_cannot_be_done_as_asked_ends_with_2(
    service: ServiceFolder, line: str, yaml: str, problems: list[str]
) -> None:
    """Each problem is told in a plain line, nothing is printed and nothing is sent."""
    if yaml:
        service.write("qbridge.yaml", yaml)

    ended = service.invoke(*line.split(" "))

    assert [f"error: {problem}" for problem in problems] == ended.errors
    assert (ExitCode.USAGE, "") == (ended.code, ended.out)
    assert not (service.path / "q.db").exists()


@pytest.mark.parametrize("command", ["run", "check", "send cleanup", "queues", "dead list default"])
def test_a_wrong_configuration_ends_with_78(service: ServiceFolder, command: str) -> None:
    """Every command that reads the file tells all that is wrong in it, and does nothing else."""
    service.write(
        "qbridge.yaml",
        """
        handlers: [shop_tasks]
        queues:
          default: {backend: sqlit, path: ./q.db}
        shutdwn: {grace: 5s}
        """,
    )

    ended = service.invoke(*command.split(" "), "--set", "max_crashes=1")

    assert [
        "error: qbridge.yaml:3: queues.default.backend is 'sqlit', which no installed package provides "
        f"(known: {', '.join(installed_backends())}); did you mean 'sqlite'?",
        "error: qbridge.yaml:4: shutdwn is not a known key (known: handlers, queues, processes, loops, retry, "
        "max_crashes, retry_budget, fail_fast, recycle, signing, probes, shutdown, logging); did you mean 'shutdown'?",
        "error: override max_crashes: max_crashes must be at least 2, not 1",
    ] == ended.errors
    assert (ExitCode.CONFIG, "") == (ended.code, ended.out)


def test_a_missing_file_is_told_with_the_ways_out(service: ServiceFolder) -> None:
    """Who runs a command in the wrong folder is told of --config and of init."""
    ended = service.invoke("run", "-c", "nowhere/qbridge.yaml")

    assert [
        "error: nowhere/qbridge.yaml: there is no such file; name another with --config, "
        "or write one with 'qbridge init'"
    ] == ended.errors
    assert ExitCode.CONFIG == ended.code


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("module", "problem"), IMPORTS, ids=[module for module, _ in IMPORTS])
def test_handlers_that_cannot_be_imported_end_with_78(
    service: ServiceFolder, command: str, module: str, problem: str
) -> None:
    """Whatever stops the import of the handlers, even an exit, is told with the file that names them."""
    service.write("shop_tasks.py", module)

    ended = service.invoke(command)

    [told] = ended.errors
    assert told.startswith(f"error: qbridge.yaml: {problem}")
    assert ExitCode.CONFIG == ended.code


def test_send_without_handlers_says_how_to_do_without(service: ServiceFolder) -> None:
    """Handlers that can't be imported stop a send, and the way round them is told."""
    service.write("shop_tasks.py", "import nowhere")

    ended = service.invoke("send", "greet", '"ada"')
    unchecked = service.invoke("send", "greet", '"ada"', "--no-check")

    assert "error: to send without importing the handlers, add --no-check" == ended.errors[-1]
    assert (ExitCode.CONFIG, "") == (ended.code, ended.out)
    assert (ExitCode.OK, []) == (unchecked.code, unchecked.errors)


@pytest.mark.parametrize("command", ["send cleanup", "queues", "dead list default", "dead retry default --all"])
def test_a_queue_that_cannot_be_as_configured_ends_with_78(service: ServiceFolder, command: str) -> None:
    """What a broker refuses is an error of the configuration, though it is found only by asking the broker."""
    service.write("qbridge.yaml", NO_FOLDER)

    ended = service.invoke(*command.split(" "))

    assert "none' can be entered; make it, or correct the path" in ended.err + ended.out
    assert ExitCode.CONFIG == ended.code


@pytest.mark.parametrize("command", ["dead list default", "dead show default x", "dead purge default --all --yes"])
def test_an_unreachable_broker_ends_with_3(service: ServiceFolder, command: str) -> None:
    """A command that doesn't wait for its broker says that it is away."""
    service.write("qbridge.yaml", UNREACHABLE)

    ended = service.invoke(*command.split(" "))

    [told] = ended.errors
    assert told.startswith("error: Redis at redis://127.0.0.1:1/0, connecting: ")
    assert (ExitCode.UNREACHABLE, "") == (ended.code, ended.out)


def test_a_send_to_an_unreachable_broker_says_what_is_unknown(service: ServiceFolder) -> None:
    """The sender is told that the task may be there all the same, and under which id."""
    service.write("qbridge.yaml", UNREACHABLE)

    ended = service.invoke("send", "cleanup")

    assert ended.errors[0].startswith("error: Redis at redis://127.0.0.1:1/0, connecting: ")
    assert re.fullmatch("error: it is not known whether the broker has task [0-9a-f]{32}", ended.errors[1])
    assert (ExitCode.UNREACHABLE, "") == (ended.code, ended.out)


def test_an_unexpected_error_is_one_line(service: ServiceFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the program is told without its traceback, and with the way to get it."""
    monkeypatch.setattr("qbridge.cli.backends.backend_statuses", lambda: 1 // 0)

    ended = service.invoke("backends")
    debugged = service.invoke("backends", "--debug")
    before = service.invoke("--debug", "backends")
    by_variable = service.invoke("backends", env={"QBRIDGE_DEBUG": "1"})

    told = "error: unexpected ZeroDivisionError: integer division or modulo by zero (--debug shows the traceback)"
    assert (ExitCode.FAILURE, [told]) == (ended.code, ended.errors)
    for shown in (debugged, before, by_variable):
        assert "Traceback (most recent call last):" == shown.errors[0]
        assert ExitCode.FAILURE == shown.code
