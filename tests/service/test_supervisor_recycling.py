"""Worker processes that are worn out are followed by fresh ones: no task is lost, run twice or kept waiting by it."""

from __future__ import annotations

from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.run_ledger import LEDGER, Ledger
from tests.support.supervised import Supervised, write_service
from tests.support.worker_process import PATIENCE

__all__ = ["service"]

HANDLERS = (
    LEDGER
    + """
import asyncio
import pathlib

leaked = []


@registry.task
async def work(context: TaskContext) -> None:
    note("start", context)
    await asyncio.sleep(0.05)
    note("end", context)


@registry.task
async def hold(context: TaskContext) -> None:
    note("start", context)
    while not pathlib.Path("go on").exists():
        await asyncio.sleep(0.01)
    note("end", context)


@registry.task
async def leak(context: TaskContext) -> None:
    note("start", context)
    leaked.append(b"x" * (20 << 20))
    note("end", context)
"""
)


def wait_for_ends(ledger: Ledger, count: int, supervisor: Supervised) -> None:
    """Wait until so many handlers have ended."""
    ledger.wait(lambda book: book.count["end"] >= count, timeout=PATIENCE, why=lambda: supervisor.log)


def position(supervisor: Supervised, message: str, process: int) -> int:
    """Return where in the log a process says something for the first time."""
    entries = [(entry["message"], entry.get("pid")) for entry in supervisor.events()]
    return entries.index((message, process))


def test_workers_are_recycled_after_so_many_tasks(service: ServiceFolder) -> None:
    """Each task is run once, by processes that come one after another, and each comes before the old one stops."""
    write_service(service.path, HANDLERS, recycle="{max_tasks: 5}")
    sent = {service.send("work") for _ in range(60)}
    ledger = Ledger(service.path)

    with Supervised(service.path) as supervisor:
        wait_for_ends(ledger, len(sent), supervisor)
        supervisor.wait_for_events("worker was recycled", 2)
        supervisor.terminate()
        code = supervisor.wait()

    assert ExitCode.OK == code
    assert dict.fromkeys(sent, 1) == ledger.ids("start") == ledger.ids("end")
    assert [] == supervisor.events("worker died, another is started")
    recycled = [entry["pid"] for entry in supervisor.events("worker was recycled")]
    announced = supervisor.events("a fresh worker follows")
    assert {entry["pid"] for entry in announced} >= set(recycled)
    for old in recycled:
        [slot] = [entry["worker"] for entry in announced if entry["pid"] == old]
        of_slot = [entry["pid"] for entry in supervisor.events("worker started") if entry["worker"] == slot]
        fresh = of_slot[of_slot.index(old) + 1]
        stopped = position(supervisor, "draining, the supervisor asks for it", old)
        assert position(supervisor, "worker started", fresh) < stopped, "its successor was not there yet"


def test_workers_are_recycled_one_at_a_time(service: ServiceFolder) -> None:
    """When several are worn out at once, the next fresh worker is started when the one before it is there."""
    write_service(service.path, HANDLERS, processes=3, recycle="{max_tasks: 1}")
    for _ in range(3):
        service.send("hold")
    ledger = Ledger(service.path)

    with Supervised(service.path) as supervisor:
        supervisor.wait_for_workers(3)
        ledger.wait(lambda book: book.count["start"] == 3, timeout=PATIENCE, why=lambda: supervisor.log)
        service.write("go on", "")
        supervisor.wait_for_events("worker was recycled", 3)
        supervisor.terminate()
        code = supervisor.wait()

    changes = [
        entry["message"]
        for entry in supervisor.events()
        if entry["message"] in ("a fresh worker follows", "worker started")
    ][3:]
    assert ExitCode.OK == code
    assert ["a fresh worker follows", "worker started"] * 3 == changes


def test_a_worker_is_recycled_when_it_holds_too_much_memory(service: ServiceFolder) -> None:
    """A process that leaks is followed by a fresh one, and each task is run once."""
    write_service(service.path, HANDLERS, processes=1, recycle="{max_rss: 150MiB}")
    sent = {service.send("leak") for _ in range(8)}
    ledger = Ledger(service.path)

    with Supervised(service.path) as supervisor:
        wait_for_ends(ledger, 8, supervisor)
        [change] = supervisor.wait_for_events("a fresh worker follows")
        supervisor.wait_for_events("worker was recycled")
        sent |= {service.send("leak") for _ in range(2)}
        wait_for_ends(ledger, 10, supervisor)
        [old, fresh] = supervisor.wait_for_workers(2)
        supervisor.terminate()
        code = supervisor.wait()

    assert change["reason"].startswith("max_rss: ")
    assert dict.fromkeys(sent, 1) == ledger.ids("start") == ledger.ids("end")
    assert [fresh, fresh] == [entry.process for entry in ledger.entries if entry.kind == "end"][-2:]
    assert old == change["pid"]
    assert ExitCode.OK == code


def test_a_limit_that_is_reached_at_once_does_not_keep_processes_changing(service: ServiceFolder) -> None:
    """A worker that is over max_rss when it starts is recycled, but later each time, and the log says why."""
    write_service(service.path, HANDLERS, processes=1, recycle="{max_rss: 16MiB}")

    with Supervised(service.path) as supervisor:
        told = supervisor.wait_for_events("worker was worn out soon after its start, max_rss may be too low", 2)
        supervisor.wait_for_workers(4)
        supervisor.terminate()
        code = supervisor.wait()

    assert 0.25 <= told[0]["delay"] <= 0.5
    assert 0.5 <= told[1]["delay"] <= 1.0
    assert ExitCode.OK == code


def test_recycling_waits_for_what_runs(service: ServiceFolder) -> None:
    """A handler that runs when its process is worn out may finish, while a fresh one takes what comes."""
    write_service(service.path, HANDLERS, processes=1, concurrency=2, recycle="{max_tasks: 1}")
    held = service.send("hold")
    service.send("work")
    ledger = Ledger(service.path)

    with Supervised(service.path) as supervisor:
        [old] = supervisor.wait_for_workers(1)
        supervisor.wait_for_events("draining, the supervisor asks for it")
        later = service.send("work")
        ledger.wait(lambda book: later in book.ids("end"), timeout=PATIENCE, why=lambda: supervisor.log)
        service.write("go on", "")
        wait_for_ends(ledger, 3, supervisor)
        supervisor.wait_until_gone(old)
        supervisor.terminate()
        code = supervisor.wait()

    runs = {(entry.message_id, entry.kind): (entry.process, entry.attempt) for entry in ledger.entries}
    assert (old, 1) == runs[held, "start"] == runs[held, "end"]
    assert old != runs[later, "end"][0]
    assert ExitCode.OK == code
