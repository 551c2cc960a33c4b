"""Signals to a service of several processes mean what they mean to one, and a supervisor that dies orphans nobody."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time

import pytest

from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.supervised import Supervised, is_alive, write_service

__all__ = ["service"]

HANDLERS = """
import asyncio
import pathlib

from qbridge import HandlerRegistry, TaskContext

registry = HandlerRegistry()


@registry.task
async def work(number: int, context: TaskContext) -> None:
    print("started", number, context.attempt)
    try:
        while not pathlib.Path("go on").exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        print("cancelled", number)
        raise
    print("done", number)


@registry.task
async def stubborn(number: int) -> None:
    print("started", number)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("not now", number)
"""

STOPS = [signal.SIGTERM, signal.SIGINT]

#: Seconds that an end may take beyond what was configured, on a busy machine.
SLACK = 12.0

#: Takes a terminal as its own, and becomes a command: what a shell does.
ON_TERMINAL = """
import os, sys
os.setsid()
os.open(sys.argv[1], os.O_RDWR)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.fixture
def supervisor(service: ServiceFolder) -> Supervised:
    """A service that has not been started: two workers, one handler at a time each."""
    write_service(service.path, HANDLERS)
    return Supervised(service.path)


def send(service: ServiceFolder, task: str, count: int) -> None:
    """Send tasks, numbered from 0."""
    for number in range(count):
        service.send(task, number)


def wait_for_lines(supervisor: Supervised, beginning: str, count: int) -> None:
    """Wait until the handlers of all workers have printed so many lines that begin so."""
    supervisor.wait_for(lambda lines: sum(line.startswith(beginning) for line in lines) >= count)


def lines(supervisor: Supervised, beginning: str) -> list[str]:
    """Return what the handlers have printed, where it begins so, in order."""
    return sorted(line for line in supervisor.lines if line.startswith(beginning))


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_the_first_signal_drains_all_workers(
    service: ServiceFolder, supervisor: Supervised, stop: signal.Signals
) -> None:
    """What runs in any worker is finished, the rest is back in the queue, and the end is 0."""
    send(service, "work", 5)
    with supervisor:
        wait_for_lines(supervisor, "started", 2)

        supervisor.signal(stop)
        supervisor.wait_for_events("draining, the supervisor asks for it", 2)
        service.write("go on", "")
        code = supervisor.wait()

    assert ExitCode.OK == code
    assert ["done 0", "done 1"] == lines(supervisor, "done")
    assert (3, 0) == (service.stats().ready, service.stats().in_flight)
    assert [2, 3, 4] == [message.args[0] for message in service.take(count=9)]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_the_second_signal_cancels_in_all_workers(
    service: ServiceFolder, supervisor: Supervised, stop: signal.Signals
) -> None:
    """A second signal ends the grace of every worker; what was cancelled is put back, and the end is 5."""
    send(service, "work", 2)
    with supervisor:
        wait_for_lines(supervisor, "started", 2)
        supervisor.signal(stop)
        supervisor.wait_for_events("draining, the supervisor asks for it", 2)
        began = time.monotonic()

        supervisor.signal(stop)
        code = supervisor.wait()

    assert ExitCode.GRACE_EXCEEDED == code
    assert time.monotonic() - began < SLACK
    assert ["cancelled 0", "cancelled 1"] == lines(supervisor, "cancelled")
    assert (2, 0) == (service.stats().ready, service.stats().in_flight)


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_the_third_signal_ends_all_workers_at_once(service: ServiceFolder, stop: signal.Signals) -> None:
    """A third signal waits for no worker, leaves none behind, and the exit code is the signal's."""
    write_service(service.path, HANDLERS, cancel_grace="60s")
    send(service, "stubborn", 2)
    with Supervised(service.path) as supervisor:
        workers = supervisor.wait_for_workers(2)
        wait_for_lines(supervisor, "started", 2)
        supervisor.signal(stop)
        supervisor.wait_for_events("draining, the supervisor asks for it", 2)
        supervisor.signal(stop)
        supervisor.wait_for_events("cancelling the handlers, the supervisor asks for it", 2)
        began = time.monotonic()

        supervisor.signal(stop)
        code = supervisor.wait()
        left = [worker for worker in workers if is_alive(worker)]

    assert 128 + stop == code
    assert time.monotonic() - began < 3
    assert [] == left


def test_a_signal_to_every_process_counts_once(service: ServiceFolder, supervisor: Supervised) -> None:
    """systemd sends SIGTERM to all processes of a service: the workers drain, they don't take it for a second one."""
    send(service, "work", 2)
    with supervisor:
        workers = supervisor.wait_for_workers(2)
        wait_for_lines(supervisor, "started", 2)

        supervisor.terminate()
        supervisor.wait_for_events("draining, the supervisor asks for it", 2)
        for count in (2, 4):
            for worker in workers:
                supervisor.terminate_worker(worker)
            supervisor.wait_for_events("draining, this worker was signalled itself", count)
        service.write("go on", "")
        code = supervisor.wait()

    assert ExitCode.OK == code
    assert [] == lines(supervisor, "cancelled")
    assert ["done 0", "done 1"] == lines(supervisor, "done")


def test_ctrl_c_in_a_terminal_counts_once(service: ServiceFolder) -> None:
    """The first Ctrl-C drains although a terminal sends it to its whole foreground group; the second one cancels."""
    write_service(service.path, HANDLERS)
    send(service, "work", 2)
    master, slave = pty.openpty()
    try:
        command = [sys.executable, "-c", ON_TERMINAL, os.ttyname(slave), "-m", "qbridge", "run"]
        with Supervised(service.path, command=command) as supervisor:
            wait_for_lines(supervisor, "started", 2)

            os.write(master, b"\x03")
            supervisor.wait_for_events("draining, the supervisor asks for it", 2)
            draining = supervisor.events()
            os.write(master, b"\x03")
            code = supervisor.wait()
    finally:
        os.close(slave)
        os.close(master)

    assert [] == [entry for entry in draining if "cancelling" in entry["message"]]
    assert ["SIGINT"] == [entry["signal"] for entry in draining if "signal" in entry]
    assert ["cancelled 0", "cancelled 1"] == lines(supervisor, "cancelled")
    assert ExitCode.GRACE_EXCEEDED == code


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_workers_that_are_still_importing_end_at_once(service: ServiceFolder, stop: signal.Signals) -> None:
    """Before anything was started a signal has nothing to drain: no worker is waited for, and that is no crash."""
    write_service(service.path, "import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    with Supervised(service.path) as supervisor:
        wait_for_lines(supervisor, "importing", 2)
        began = time.monotonic()

        supervisor.signal(stop)
        code = supervisor.wait()

    assert ExitCode.OK == code
    assert time.monotonic() - began < SLACK


def test_a_worker_that_is_killed_while_it_drains_has_abandoned_its_work(
    service: ServiceFolder, supervisor: Supervised
) -> None:
    """The others are drained to their end, no worker follows the dead one, and the end is 6."""
    send(service, "work", 2)
    with supervisor:
        victim, _ = supervisor.wait_for_workers(2)
        wait_for_lines(supervisor, "started", 2)
        supervisor.terminate()
        supervisor.wait_for_events("draining, the supervisor asks for it", 2)

        supervisor.kill_worker(victim)
        supervisor.wait_for_events("worker died while it drained")
        service.write("go on", "")
        code = supervisor.wait()

    assert ExitCode.ABANDONED == code
    assert 1 == len(lines(supervisor, "done"))
    assert 2 == len(supervisor.events("worker started"))


def test_workers_whose_supervisor_was_killed_drain(service: ServiceFolder, supervisor: Supervised) -> None:
    """After kill -9 of the supervisor its workers claim nothing more, finish what runs, and end by themselves."""
    send(service, "work", 5)
    with supervisor:
        workers = supervisor.wait_for_workers(2)
        wait_for_lines(supervisor, "started", 2)

        supervisor.signal(signal.SIGKILL)
        supervisor.wait_until(lambda: len(supervisor.events("the supervisor is gone, draining")) == 2)
        assert all(map(is_alive, workers))
        service.write("go on", "")
        code = supervisor.wait()  # returns when nobody holds the pipes of its output any more
        for worker in workers:
            supervisor.wait_until_gone(worker)

    assert -signal.SIGKILL == code
    assert ["done 0", "done 1"] == lines(supervisor, "done")
    assert (3, 0) == (service.stats().ready, service.stats().in_flight)


def test_an_orphan_whose_main_loop_stands_still_leaves(service: ServiceFolder) -> None:
    """A worker that can't learn of its supervisor's death ends all the same, and what it held comes back."""
    freezing = (
        "import qbridge.service, signal, time\n"
        "qbridge.service.ORPHAN_MARGIN = 0.5\n"  # a test has less time than a service
        "signal.signal(signal.SIGUSR1, lambda *_: time.sleep(600))\n"  # in the main thread
    )
    write_service(service.path, freezing + HANDLERS, processes=1, recycle="{max_tasks: 9}", grace="1s")
    send(service, "work", 1)
    with Supervised(service.path) as supervisor:
        [worker] = supervisor.wait_for_workers(1)
        wait_for_lines(supervisor, "started", 1)
        os.kill(worker, signal.SIGUSR1)

        supervisor.signal(signal.SIGKILL)
        supervisor.wait_until_gone(worker)
        supervisor.wait()

    assert 1 == len(supervisor.events("the supervisor is gone and the main loop stands still, leaving"))
    assert 1 == service.stats().ready + service.stats().in_flight


def test_a_supervisor_that_waits_to_restart_ends_at_once(service: ServiceFolder) -> None:
    """A signal that comes in the pause after a death ends the service: nobody is started any more."""
    write_service(service.path, "import os\nos._exit(9)\n", processes=1, recycle="{max_tasks: 9}")
    with Supervised(service.path) as supervisor:
        supervisor.wait_for(lambda _: any(e["delay"] > 1 for e in supervisor.events("worker died, another is started")))
        died = len(supervisor.events("worker died, another is started"))

        supervisor.terminate()
        code = supervisor.wait()

    assert ExitCode.CRASHED == code
    assert died == len(supervisor.events("worker died, another is started"))
