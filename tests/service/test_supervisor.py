"""Several worker processes: they share the work, those that die are replaced, and nothing is lost with them."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.redis_server import RedisServer
from tests.support.run_ledger import LEDGER, Ledger
from tests.support.supervised import Supervised, write_service
from tests.support.worker_process import PATIENCE

__all__ = ["service"]

HANDLERS = (
    LEDGER
    + """
import asyncio
import os
import pathlib


def processes() -> set[str]:
    return {line.split()[2] for line in pathlib.Path("ledger").read_text().splitlines()}


@registry.task
async def meet(context: TaskContext) -> None:
    note("start", context)
    while len(processes()) < 2:
        await asyncio.sleep(0.01)
    note("end", context)


@registry.task
async def work(context: TaskContext) -> None:
    note("start", context)
    while not pathlib.Path("go on").exists():
        await asyncio.sleep(0.01)
    note("end", context)


@registry.task
async def leave(context: TaskContext) -> None:
    os._exit(0)
"""
)

#: A supervisor with less patience than the one of `qbridge run`, which waits a minute.
IMPATIENT = """
import sys
from pathlib import Path
from qbridge.config import load_config
from qbridge.supervisor import Supervisor

command = [sys.executable, "-m", "qbridge", "run"]
text = Path("qbridge.yaml").read_bytes()
sys.exit(Supervisor(load_config("qbridge.yaml"), text, command=command, silence=4).run())
"""

#: A supervisor of workers that say they have drained, and then fail.
OF_LIARS = """
import sys
from pathlib import Path
from qbridge.config import load_config
from qbridge.supervisor import Supervisor

work = (
    "import sys; from qbridge.lifeline import Lifeline; lifeline = Lifeline.from_environment(); "
    "lifeline.configuration(); lifeline.tell_end(0); sys.exit(1)"
)
text = Path("qbridge.yaml").read_bytes()
sys.exit(Supervisor(load_config("qbridge.yaml"), text, command=[sys.executable, "-c", work], burst=True).run())
"""


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def queue(request: pytest.FixtureRequest) -> Iterator[str]:
    """A queue with a short lease, on each broker that several processes share, as in the YAML."""
    if request.param == "sqlite":
        yield "{backend: sqlite, path: ./q.db, lease: 2s}"
        return
    with RedisServer() as server:
        yield f'{{backend: redis, url: "{server.url}", key: q, lease: 2s}}'


def send(service: ServiceFolder, task: str, count: int) -> set[str]:
    """Send a task so many times; return the ids."""
    return {service.send(task) for _ in range(count)}


def test_workers_share_the_work(service: ServiceFolder, queue: str) -> None:
    """Two workers run at the same time, every message once, and end together with 0."""
    write_service(service.path, HANDLERS, queue=queue)
    sent = send(service, "meet", 12)
    ledger = Ledger(service.path)

    with Supervised(service.path) as supervisor:
        workers = supervisor.wait_for_workers(2)
        ledger.wait(lambda book: book.count["end"] >= len(sent), timeout=PATIENCE, why=lambda: supervisor.log)
        supervisor.terminate()
        code = supervisor.wait()

    assert ExitCode.OK == code
    assert dict.fromkeys(sent, 1) == ledger.ids("start") == ledger.ids("end")
    assert set(workers) == {entry.process for entry in ledger.entries}
    assert 0 == service.stats().in_flight


def test_a_killed_worker_is_replaced_and_loses_nothing(service: ServiceFolder, queue: str) -> None:
    """What a worker held when it was killed with -9 runs again, nothing else does, and the end is not 0."""
    write_service(service.path, HANDLERS, queue=queue, concurrency=3)
    sent = send(service, "work", 10)
    ledger = Ledger(service.path)

    with Supervised(service.path) as supervisor:
        victim, _ = supervisor.wait_for_workers(2)
        ledger.wait(lambda book: book.count["start"] >= 6, timeout=PATIENCE, why=lambda: supervisor.log)
        supervisor.kill_worker(victim)
        [death] = supervisor.wait_for_events("worker died, another is started")
        replacement = supervisor.wait_for_workers(3)[2]
        service.write("go on", "")
        ledger.wait(lambda book: book.ids("end").keys() >= sent, timeout=PATIENCE, why=lambda: supervisor.log)
        supervisor.terminate()
        code = supervisor.wait()

    assert (victim, "SIGKILL") == (death["pid"], death["exit"])
    assert replacement not in (victim, supervisor.pid)
    assert ExitCode.CRASHED == code
    assert dict.fromkeys(sent, 1) == ledger.ids("end")
    assert {victim} == runs_that_were_repeated(ledger)
    assert (0, 0, 0) == (service.stats().ready, service.stats().in_flight, service.stats().dead)


def test_an_exit_code_of_0_is_a_crash_if_nobody_asked_for_it(service: ServiceFolder) -> None:
    """A handler that ends its process with 0 has not drained it: another worker follows, and the end is not 0."""
    write_service(service.path, HANDLERS, processes=1, recycle="{max_tasks: 1000}")
    service.send("leave")

    with Supervised(service.path) as supervisor:
        [death, *_] = supervisor.wait_for_events("worker died, another is started")
        supervisor.wait_for_workers(2)
        supervisor.terminate()
        code = supervisor.wait()

    assert "0" == death["exit"]
    assert ExitCode.CRASHED == code


def test_a_failure_after_the_drain_is_a_crash(service: ServiceFolder) -> None:
    """A worker that has announced a good end, and fails while it closes what is left, has failed."""
    write_service(service.path, HANDLERS)

    with Supervised(service.path, command=[sys.executable, "-c", OF_LIARS]) as supervisor:
        code = supervisor.wait()

    assert ["1", "1"] == [death["exit"] for death in supervisor.events("worker died before it was ready")]
    assert ExitCode.CRASHED == code


def test_a_crash_loop_slows_down_and_goes_on(service: ServiceFolder) -> None:
    """Workers that die again and again are started after pauses that double, each slot by itself, until a signal."""
    write_service(service.path, "import os\nos._exit(9)\n")

    with Supervised(service.path) as supervisor:
        supervisor.wait_for(lambda _: min(map(len, deaths_by_slot(supervisor).values()), default=0) >= 3)
        deaths = deaths_by_slot(supervisor)
        supervisor.terminate()
        code = supervisor.wait()

    assert {1, 2} == deaths.keys()
    for in_slot in deaths.values():
        for index, (death, following) in enumerate(pairwise(in_slot)):
            assert "9" == death["exit"]
            assert 0.25 * 2**index <= death["delay"] <= 0.5 * 2**index
            assert following["at"] - death["at"] >= death["delay"]
    assert ExitCode.CRASHED == code


def test_a_frozen_worker_is_killed_and_replaced(service: ServiceFolder) -> None:
    """A worker whose main thread gives no sign of life is killed; one that does is left alone."""
    write_service(service.path, HANDLERS)

    with Supervised(service.path, command=[sys.executable, "-c", IMPATIENT]) as supervisor:
        frozen, well = supervisor.wait_for_workers(2)
        supervisor.stop_worker(frozen)
        [killed] = supervisor.wait_for_events("worker gives no sign of life, it is killed")
        [death] = supervisor.wait_for_events("worker died, another is started")
        started = supervisor.wait_for_workers(3)
        supervisor.terminate()
        code = supervisor.wait()

    assert frozen == killed["pid"] == death["pid"]
    assert [frozen, well] == started[:2]
    assert ExitCode.CRASHED == code


def test_a_service_that_was_frozen_as_a_whole_goes_on(service: ServiceFolder) -> None:
    """When supervisor and workers could not run, as in a paused container, nobody's silence counts."""
    write_service(service.path, HANDLERS)

    with Supervised(service.path, command=[sys.executable, "-c", IMPATIENT]) as supervisor:
        frozen, other = supervisor.wait_for_workers(2)
        supervisor.stop_worker(frozen)
        supervisor.signal(signal.SIGSTOP)
        time.sleep(7)  # what the supervisor takes for a sleep of its own, and longer than silence is borne
        supervisor.signal(signal.SIGCONT)
        supervisor.kill_worker(other)
        supervisor.wait_for_events("worker died, another is started")
        supervisor.continue_worker(frozen)
        supervisor.wait_for_workers(3)
        supervisor.terminate()
        code = supervisor.wait()

    assert [] == supervisor.events("worker gives no sign of life, it is killed")
    assert frozen in [entry["pid"] for entry in supervisor.events("worker drained")]
    assert ExitCode.CRASHED == code


def test_a_burst_ends_when_all_workers_have_found_nothing(service: ServiceFolder) -> None:
    """With --burst each worker ends when the queues are empty, none follows it, and the end is 0."""
    write_service(service.path, HANDLERS)
    service.write("go on", "")
    sent = send(service, "work", 12)

    with Supervised(service.path, "--burst") as supervisor:
        code = supervisor.wait()

    assert ExitCode.OK == code
    assert dict.fromkeys(sent, 1) == Ledger(service.path).read().ids("end")
    assert 2 == len(supervisor.events("worker started"))


def test_a_burst_whose_workers_can_t_start_ends(service: ServiceFolder) -> None:
    """With --burst a worker that dies before it is ready is not followed by another: a burst has an end."""
    write_service(service.path, "import os\nos._exit(9)\n")

    with Supervised(service.path, "--burst") as supervisor:
        code = supervisor.wait()

    assert ExitCode.CRASHED == code
    assert 2 == len(supervisor.events("worker died before it was ready"))


def test_a_worker_follows_one_that_was_told_to_end(service: ServiceFolder) -> None:
    """A signal to a single worker drains it, and a fresh one takes its place at once; that is no crash."""
    write_service(service.path, HANDLERS)

    with Supervised(service.path) as supervisor:
        first, second = supervisor.wait_for_workers(2)
        supervisor.terminate_worker(first)
        supervisor.wait_for_workers(3)
        supervisor.wait_until_gone(first)
        supervisor.terminate()
        code = supervisor.wait()

    assert {first, second} < {entry["pid"] for entry in supervisor.events("worker drained")}
    assert [] == supervisor.events("worker died, another is started")
    assert ExitCode.OK == code


def deaths_by_slot(supervisor: Supervised) -> dict[int, list[dict[str, Any]]]:
    """Return the deaths that were logged, by slot, each with the second in which it was."""
    deaths: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in supervisor.events("worker died, another is started"):
        deaths[entry["worker"]].append({**entry, "at": datetime.fromisoformat(entry["time"]).timestamp()})
    return deaths


def runs_that_were_repeated(ledger: Ledger) -> set[int]:
    """Return the processes that have started a message which was started again later."""
    starts = [entry for entry in ledger.entries if entry.kind == "start"]
    runs = Counter(entry.message_id for entry in starts)
    again = {entry.message_id: entry.process for entry in reversed(starts) if runs[entry.message_id] > 1}
    return set(again.values())
