"""Handlers that block their loop in the real process: what is told, who goes on, and how the worker ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.worker_process import WorkerProcess

__all__ = ["service"]

HANDLERS = """
    import asyncio
    import time
    from itertools import repeat

    from qbridge import HandlerRegistry, TaskContext

    registry = HandlerRegistry()

    @registry.task
    async def block(seconds: float, context: TaskContext) -> None:
        print("blocks", context.attempt, context.loop_thread)
        time.sleep(seconds)
        print("blocked", seconds)

    @registry.task
    async def hold_interpreter(seconds: float) -> None:
        print("holds")
        hold_it(seconds)
        print("held")

    def hold_it(seconds: float) -> None:
        sum(repeat(0, int(seconds * 180_000_000)))  # C code that keeps the interpreter, like a slow regex

    @registry.task
    async def wait(number: int, seconds: float, context: TaskContext) -> None:
        print("waits", number, context.attempt)
        await asyncio.sleep(seconds)
        print("waited", number)

    @registry.task
    def work(number: int, seconds: float, context: TaskContext) -> None:
        print("works", number, context.attempt)
        time.sleep(seconds)
        print("worked", number)
"""

#: Seconds that a worker may take beyond what it was configured to wait, on a busy machine.
SLACK = 12.0


def configure(
    service: ServiceFolder,
    *,
    replace_after: str = "none",
    threads: int = 1,
    lease: str = "30s",
    implementation: str = "auto",
    grace: str = "60s",
) -> None:
    """Write the service of these tests."""
    service.write("shop_tasks.py", HANDLERS)
    replace_after = "null" if replace_after == "none" else replace_after
    service.write(
        "qbridge.yaml",
        f"""
        handlers: [shop_tasks]
        queues:
          default: {{backend: sqlite, path: ./q.db, lease: {lease}}}
        loops:
          default:
            threads: {threads}
            concurrency: 10
            implementation: {implementation}
            blocked_after: 0.5s
            replace_after: {replace_after}
        retry: {{max_attempts: 2, base: 0.1s, jitter: false}}
        shutdown: {{grace: {grace}, cancel_grace: 0.5s, flush: 2s}}
        """,
    )


def printed(*lines: str) -> Callable[[list[str]], bool]:
    """Return a condition: the worker has printed these lines."""
    return lambda found: set(lines) <= set(found)


def logged(worker: WorkerProcess, text: str) -> list[str]:
    """Return the lines of the log that have a text."""
    return [line for line in worker.log if text in line]


@pytest.mark.parametrize("implementation", ["asyncio", "uvloop"])
def test_the_log_names_what_blocks_a_loop(service: ServiceFolder, implementation: str) -> None:
    """Within seconds the handler, its message and the line at which it stands are in the log; later that it is over."""
    configure(service, implementation=implementation)
    service.send("block", 2.5)
    with WorkerProcess(service.path) as worker:
        worker.wait_for(lambda lines: bool(logged(worker, "a loop is no longer blocked")))
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    [line] = logged(worker, "a handler blocks its loop")
    place = worker.log.index(line)
    assert "warning a handler blocks its loop loop_thread=default-0 seconds=" in line
    assert " queue=default task=block message_id=" in line
    assert "in block" in worker.log[place + 1]
    assert "time.sleep(seconds)" in worker.log[place + 2]
    assert ExitCode.OK == code
    assert 1 == worker.lines.count("blocks 1 default-0")


def test_stacks_are_dumped_while_the_interpreter_is_held(service: ServiceFolder) -> None:
    """C code that lets nothing else run: all stacks are on standard error, once, and then the handler's name."""
    configure(service)
    service.send("hold_interpreter", 4.0)
    with WorkerProcess(service.path) as worker:
        worker.wait_for(printed("holds"))
        worker.wait_for(lambda lines: bool(logged(worker, "the main loop was held up")))
        worker.wait_for(printed("held"))
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    [line] = logged(worker, "the main loop was held up")
    assert 'handlers="hold_interpreter (' in line
    assert 1 == len(logged(worker, "Current thread 0x"))
    assert logged(worker, 'shop_tasks.py", line')[0].endswith("in hold_it")
    assert worker.log.index(logged(worker, "in hold_it")[0]) < worker.log.index(line)
    assert [] == logged(worker, "blocks its loop")
    assert ExitCode.OK == code


def test_a_worker_that_is_held_up_by_nothing_dumps_nothing(service: ServiceFolder) -> None:
    """A worker that lives for longer than the limit, and one whose loop is blocked, write no stacks of all threads."""
    configure(service)
    service.send("block", 2.5)
    with WorkerProcess(service.path) as worker:
        worker.wait_for(printed("blocked 2.5"))
        worker.signal(signal.SIGTERM)
        worker.wait()

    assert [] == logged(worker, "Current thread 0x")


def test_a_wedged_loop_is_replaced_and_holds_nothing(service: ServiceFolder) -> None:
    """What blocks for ever is tried again and then a dead letter; all else is done once, and the exit is clean."""
    configure(service, replace_after="1s")
    service.send("wait", 1, 3.0)
    service.send("work", 1, 6.0)
    with WorkerProcess(service.path) as worker:
        worker.wait_for(printed("waits 1 1", "works 1 1"))
        service.send("block", 600)
        worker.wait_for(printed("blocks 1 default-0", "blocks 2 default-1", "waited 1", "worked 1"))
        worker.wait_for(lambda lines: service.stats().dead == 1 and service.stats().in_flight == 0)
        service.send("wait", 2, 0.0)
        worker.wait_for(printed("waited 2"))
        began = time.monotonic()
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert time.monotonic() - began < SLACK
    assert ExitCode.OK == code
    assert [1, 1] == [worker.lines.count("works 1 1"), worker.lines.count("worked 1")]
    assert "waits 1 2" not in worker.lines  # no attempt of an innocent was counted
    assert 2 == len(logged(worker, "a blocked loop thread is given up"))
    assert 1 == len(logged(worker, "reason=exhausted"))
    assert 1 == len(logged(worker, "a thread did not end, the process leaves it behind"))
    assert (0, 0, 0, 1) == (
        service.stats().ready,
        service.stats().delayed,
        service.stats().in_flight,
        service.stats().dead,
    )


def test_a_signal_while_a_loop_is_wedged(service: ServiceFolder) -> None:
    """The drain goes on when the loop is given up, long before its grace is over; what was settled isn't abandoned."""
    configure(service, replace_after="2s")
    service.send("block", 600)
    with WorkerProcess(service.path) as worker:
        worker.wait_for(printed("blocks 1 default-0"))
        began = time.monotonic()
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert time.monotonic() - began < SLACK
    assert ExitCode.OK == code
    assert (1, 0) == (service.stats().ready + service.stats().delayed, service.stats().in_flight)


def test_a_wedged_loop_that_is_never_given_up_is_abandoned(service: ServiceFolder) -> None:
    """Without `replace_after` the drain waits for its grace, and leaves the message to its lease: exit code 6."""
    configure(service, grace="1s")
    service.send("block", 600)
    with WorkerProcess(service.path) as worker:
        worker.wait_for(printed("blocks 1 default-0"))
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert ExitCode.ABANDONED == code
    assert 1 == service.stats().in_flight


def test_no_lease_is_lost_beside_a_blocked_loop(service: ServiceFolder) -> None:
    """A handler blocks for four leases: the messages on its loop and on the other one are run once."""
    configure(service, lease="1s", threads=2)
    for number in range(6):
        service.send("wait", number, 0.5)
    service.send("block", 4.0)
    with WorkerProcess(service.path) as worker, WorkerProcess(service.path) as other:
        for one in (worker, other):
            one.wait_until_ready()
        worker.wait_for(lambda lines: sum("waited" in line or "blocked" in line for line in lines + other.lines) == 7)
        for one in (worker, other):
            one.signal(signal.SIGTERM)
        codes = [one.wait() for one in (worker, other)]

    lines = sorted([*worker.lines, *other.lines])
    assert [0, 0] == codes
    assert [f"waits {number} 1" for number in range(6)] == [line for line in lines if line.startswith("waits")]
    assert 1 == len([line for line in lines if line.startswith("blocks")])
    assert [] == logged(worker, "lease lost") + logged(other, "lease lost")
