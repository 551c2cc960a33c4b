"""The configuration of a service of several processes: told once if it is wrong, and one for all of them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from qbridge import ConfigError, HandlerRegistry, QBridge
from qbridge.lifeline import MARKER
from qbridge.service import ExitCode
from tests.support.cli import Ended, ServiceFolder, service
from tests.support.supervised import Supervised, write_service

__all__ = ["service"]

HANDLERS = f"""
import os
import subprocess
import sys
from typing import Any

from qbridge import HandlerRegistry

registry = HandlerRegistry()


@registry.task
async def work() -> None:
    print("done", {MARKER!r} in os.environ, flush=True)


@registry.task
async def start_another(config: str) -> None:
    done = subprocess.run([sys.executable, "-m", "qbridge", "run", "--burst", "-c", config], stderr=subprocess.DEVNULL)
    print("ended", done.returncode, flush=True)
"""


def told(ended: Ended) -> list[str]:
    """Return the errors that a command has told, apart from its log."""
    return [line for line in ended.errors if line.startswith("error: ")]


def test_a_wrong_file_starts_no_worker(service: ServiceFolder) -> None:
    """What is wrong in the file is found before anything is started, told once, and the end is 78."""
    service.write("qbridge.yaml", "{handlers: [shop_tasks], queues: {a: {backend: sqlite}}, processes: 3}")

    ended = service.run("run")

    assert ExitCode.CONFIG == ended.code
    assert [True] == [line.startswith("error: qbridge.yaml") for line in ended.errors]


def test_handlers_that_can_t_be_imported_are_told_once(service: ServiceFolder) -> None:
    """Every worker finds it out by itself, the service tells it once, and the end is 78."""
    write_service(service.path, "1 / 0\n", processes=3)

    ended = service.run("run")

    assert ExitCode.CONFIG == ended.code
    [line] = told(ended)
    assert line.startswith("error: qbridge.yaml: handlers: module 'shop_tasks' can't be imported: ZeroDivisionError")


def test_a_broker_that_refuses_ends_all(service: ServiceFolder) -> None:
    """What can't become right by waiting ends the service with 78; no worker is started again."""
    write_service(service.path, HANDLERS, queue="{backend: sqlite, path: ./none/q.db}")

    with Supervised(service.path) as supervisor:
        code = supervisor.wait()

    assert ExitCode.CONFIG == code
    assert [] == supervisor.events("worker died, another is started")
    assert 1 == len(supervisor.events("worker can't go on, nor could another, all drain"))
    assert 2 >= len(supervisor.events("worker started"))


def test_a_broker_that_is_away_ends_all_if_that_is_wanted(service: ServiceFolder) -> None:
    """With fail_fast the service ends with 3 instead of starting workers again and again."""
    write_service(service.path, HANDLERS, queue='{backend: redis, url: "redis://127.0.0.1:1/0"}')

    with Supervised(service.path, "--set", "fail_fast=true") as supervisor:
        code = supervisor.wait()

    assert ExitCode.UNREACHABLE == code
    assert [] == supervisor.events("worker died, another is started")
    assert 1 == len(supervisor.events("worker can't go on, nor could another, all drain"))


def test_handlers_that_break_later_end_all(service: ServiceFolder) -> None:
    """A worker that finds broken handlers when it takes a dead one's place is not started again and again: 78."""
    write_service(service.path, HANDLERS)
    with Supervised(service.path) as supervisor:
        victim, other = supervisor.wait_for_workers(2)
        service.write("shop_tasks.py", "1 / 0\n")

        supervisor.kill_worker(victim)
        code = supervisor.wait()

    assert ExitCode.CONFIG == code
    assert other in [entry["pid"] for entry in supervisor.events("worker drained")]
    assert 1 == len([line for line in supervisor.log if line.startswith("error: ")])


@pytest.mark.parametrize("setting", ["processes=2", "recycle.max_tasks=9"])
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_queue_in_memory_has_one_process(service: ServiceFolder, command: str, setting: str) -> None:
    """A queue that lives in one process is refused where there are more, one after another included."""
    service.write("qbridge.yaml", "{handlers: [shop_tasks], queues: {a: {backend: memory}}}")

    ended = service.run(command, "--set", setting)

    [line] = ended.errors
    assert ExitCode.CONFIG == ended.code
    assert line.startswith("error: qbridge.yaml: queues.a.backend is 'memory', which keeps its messages in one process")


def test_all_workers_have_the_file_that_was_checked(service: ServiceFolder) -> None:
    """A worker that is started later runs with the file as it was, whatever has become of it."""
    write_service(service.path, HANDLERS)
    with Supervised(service.path) as supervisor:
        victim, _ = supervisor.wait_for_workers(2)
        text = (service.path / "qbridge.yaml").read_text()
        service.write("qbridge.yaml", "nothing that could be read: [")

        supervisor.kill_worker(victim)
        supervisor.wait_for_workers(3)
        service.write("qbridge.yaml", text)
        supervisor.terminate()
        code = supervisor.wait()

    assert ExitCode.CRASHED == code


def test_a_file_of_any_size_reaches_the_workers(service: ServiceFolder) -> None:
    """A file that is larger than a socket's buffer arrives whole, in letters of any language."""
    write_service(service.path, HANDLERS)
    file = service.path / "qbridge.yaml"
    file.write_text(f"# {'größer ' * 100_000}\n{file.read_text('utf-8')}", "utf-8")

    with Supervised(service.path, "--burst") as supervisor:
        code = supervisor.wait()

    assert ExitCode.OK == code
    assert 2 == len(supervisor.events("worker started"))


def test_a_file_that_can_be_read_once_serves_all_workers(service: ServiceFolder) -> None:
    """The file may come through a pipe, as `-c <(...)` has it."""
    write_service(service.path, HANDLERS)
    text = (service.path / "qbridge.yaml").read_bytes()
    (service.path / "qbridge.yaml").unlink()

    ended = service.run("run", "--burst", "-c", "/dev/stdin", stdin=text)

    assert ExitCode.OK == ended.code
    assert 2 == ended.err.count('"worker started"')


def test_flags_and_variables_reach_the_workers(service: ServiceFolder) -> None:
    """What is laid over the file counts in every worker."""
    write_service(service.path, HANDLERS, processes=1)
    service.send("work")
    variables = {"QBRIDGE_LOGGING__FORMAT": "console", "QBRIDGE_SET": "loops.default.concurrency=3 processes=3"}

    ended = service.run("run", "--burst", "--log-level", "debug", env=variables)

    assert ExitCode.OK == ended.code
    assert {"1", "2", "3"} == {line.split("[")[1][0] for line in ended.errors if "worker started" in line}
    assert 1 == len([line for line in ended.errors if "debug" in line and "task ended" in line])


def test_a_handler_may_run_another_service(service: ServiceFolder) -> None:
    """What a handler starts is no worker of this supervisor, though it is `qbridge run` as well."""
    write_service(service.path, HANDLERS)
    service.write("other.yaml", "{handlers: [shop_tasks], queues: {a: {backend: sqlite, path: ./other.db}}}")
    service.send("work")
    service.send("start_another", "other.yaml")

    with Supervised(service.path, "--burst") as supervisor:
        code = supervisor.wait()

    assert ExitCode.OK == code
    assert ["done False", "ended 0"] == sorted(supervisor.lines)


@pytest.mark.parametrize("settings", [{"processes": 2}, {"recycle": {"max_tasks": 5}}])
def test_a_bridge_refuses_more_than_its_process(settings: dict[str, Any]) -> None:
    """A program's bridge says that it can't be several processes, instead of being one."""
    with pytest.raises(ConfigError, match="are for 'qbridge run'"):
        QBridge(HandlerRegistry(), **settings)


def test_a_service_in_a_program_says_that_it_is_one_process(service: ServiceFolder) -> None:
    """A program that runs a file with several processes is told that it runs one."""
    write_service(service.path, HANDLERS)
    program = (
        "from qbridge import HandlerRegistry, Service, load_config\n"
        "Service(load_config('qbridge.yaml'), HandlerRegistry(), burst=True).run()\n"
    )

    with Supervised(service.path, command=[sys.executable, "-c", program]) as single:
        code = single.wait()

    assert 0 == code
    assert 1 == len(single.events("processes and recycle are for 'qbridge run', this is a single process"))
