"""`qbridge run` as a process: its flags, its log, its output and its ends; signals have a file of their own."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import pytest

from qbridge.cli import main
from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.worker_process import WorkerProcess

__all__ = ["service"]


def test_a_burst_runs_what_is_there_and_ends(service: ServiceFolder) -> None:
    """--burst runs all that is ready and ends with 0; standard output is the handlers' alone."""
    for name in ("ada", "bob"):
        service.send("greet", name)

    ended = service.run("run", "--burst")

    assert ExitCode.OK == ended.code
    assert ["hello ada 1", "hello bob 1"] == ended.out.splitlines()
    assert 0 == service.stats().ready


def test_the_log_is_as_the_flags_say(service: ServiceFolder) -> None:
    """--log-level and --log-format stand over the file, each as a flag or as a variable."""
    service.send("cleanup")

    ended = service.run("run", "--burst", "--log-level", "debug", env={"QBRIDGE_LOG_FORMAT": "json"})
    quiet = service.run("run", env={"QBRIDGE_BURST": "1", "QBRIDGE_LOG_LEVEL": "error"})

    entries = [json.loads(line) for line in ended.errors]
    assert "debug" in {entry["level"] for entry in entries}
    assert (ExitCode.OK, "") == (quiet.code, quiet.err)


def test_what_a_handler_prints_is_there_at_once(service: ServiceFolder) -> None:
    """Into a pipe, too, a printed line is there when it is printed, not when a buffer is full."""
    with WorkerProcess(service.path) as worker:
        service.send("greet", "ada")

        worker.wait_for(lambda lines: lines == ["hello ada 1"])


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_broker_that_refuses_the_configuration_ends_it_with_78(service: ServiceFolder, log_format: str) -> None:
    """What can't become right by waiting ends the worker; it is told once, in the log and in the log's format."""
    service.write("qbridge.yaml", "{handlers: [shop_tasks], queues: {a: {backend: sqlite, path: ./none/q.db}}}")

    ended = service.run("run", "--log-format", log_format)

    told = [line for line in ended.errors if "can't use" in line]
    assert ExitCode.CONFIG == ended.code
    assert 1 == len(told)
    assert not any(line.startswith("error: ") for line in ended.errors)


def test_an_installed_command_does_the_same(service: ServiceFolder) -> None:
    """The entry point of the package and `python -m qbridge` are one program."""
    [script] = entry_points(group="console_scripts", name="qbridge")

    assert main is script.load()


def test_a_worker_that_fails_leaves_its_traceback_in_the_log(
    service: ServiceFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the program ends the worker with 1, and is in the log as a service's owner needs it: whole."""
    monkeypatch.setattr("qbridge.service.Service.run", lambda _: 1 // 0)

    ended = service.invoke("run")

    [record] = caplog.records
    assert (ExitCode.FAILURE, "the worker failed") == (ended.code, record.getMessage())
    assert record.exc_info is not None
    assert ZeroDivisionError is record.exc_info[0]
