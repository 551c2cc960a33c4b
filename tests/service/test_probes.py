"""Probes of the real process: what they answer while it starts, works, is blocked, waits for its broker and leaves."""

from __future__ import annotations

import signal
import socket

import pytest

from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.probing import Answer, ask, free_port, metrics_of, wait_for_answer
from tests.support.redis_server import RedisServer
from tests.support.supervised import Supervised
from tests.support.worker_process import WorkerProcess

__all__ = ["service"]

HANDLERS = """
    import asyncio
    import signal
    import time
    from pathlib import Path

    import qbridge.condition
    from qbridge import HandlerRegistry, Reject

    registry = HandlerRegistry()
    qbridge.condition.LATE, qbridge.condition.FROZEN = 2.0, 3.0  # a test has less time than a service


    def freeze(number: int, frame: object) -> None:
        # A signal handler runs in the main thread, and its loop stands still meanwhile.
        while not Path("thaw").exists():
            time.sleep(0.05)


    signal.signal(signal.SIGUSR1, freeze)


    @registry.task
    async def greet(name: str) -> None:
        print("hello", name)

    @registry.task
    async def refuse() -> None:
        raise Reject("never")

    @registry.task
    async def block() -> None:
        print("blocks")
        while not Path("go on").exists():
            time.sleep(0.05)

    @registry.task
    async def wait() -> None:
        print("waits")
        while not Path("go on").exists():
            await asyncio.sleep(0.05)
"""


def configure(
    service: ServiceFolder,
    *,
    queue: str = "{backend: sqlite, path: ./q.db}",
    processes: int = 1,
    recycle: str = "{}",
) -> int:
    """Write the service of these tests; return the port of its probes."""
    port = free_port()
    service.write("shop_tasks.py", HANDLERS)
    service.write(
        "qbridge.yaml",
        f"""
        handlers: [shop_tasks]
        queues:
          orders: {queue}
        processes: {processes}
        recycle: {recycle}
        loops: {{default: {{concurrency: 10, blocked_after: 0.5s, replace_after: null}}}}
        probes: {{port: {port}}}
        shutdown: {{grace: 60s, cancel_grace: 0.5s, flush: 2s}}
        logging: {{format: json}}
        """,
    )
    return port


def is_ready(answer: Answer) -> bool:
    """Whether all is well."""
    return answer == Answer(200)


def test_a_worker_is_live_ready_and_counted(service: ServiceFolder) -> None:
    """After its start all is well, and what has run is in the metrics; after its end nobody listens."""
    port = configure(service)
    for name in "abc":
        service.send("greet", name)
    service.send("refuse")
    with WorkerProcess(service.path) as worker:
        wait_for_answer(port, "/readyz", is_ready)
        live = ask(port, "/livez")
        worker.wait_for(lambda lines: len(lines) >= 3)
        expected = {("ack", 3.0), ("retry", 0.0), ("release", 0.0), ("dead_letter", 1.0)}
        wait_for_answer(port, "/readyz", lambda _: expected == outcomes(port))
        found = metrics_of(port)
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert Answer(200) == live
    labels = frozenset({"worker": "1", "queue": "orders"}.items())
    assert 3 == found["qbridge_tasks_succeeded_total", labels]
    assert 1 == found["qbridge_source_up", labels]
    assert 0 == found["qbridge_messages_held", labels]
    assert ExitCode.OK == code
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/livez")


def outcomes(port: int) -> set[tuple[str, float]]:
    """Return how many tasks have ended in which way."""
    return {
        (dict(labels)["outcome"], value)
        for (name, labels), value in metrics_of(port).items()
        if name == "qbridge_tasks_ended_total"
    }


def test_a_worker_is_not_ready_while_a_loop_is_blocked(service: ServiceFolder) -> None:
    """The reason names the loop thread; the worker lives, and is ready again when the handler has ended."""
    port = configure(service)
    service.send("block")
    with WorkerProcess(service.path) as worker:
        worker.wait_for(lambda lines: "blocks" in lines)
        blocked = wait_for_answer(port, "/readyz", lambda answer: "loop" in "".join(answer.reasons))
        live = ask(port, "/livez")
        names = {name for name, _ in metrics_of(port)}
        service.write("go on", "")
        wait_for_answer(port, "/readyz", is_ready)
        found = metrics_of(port)

    assert 503 == blocked.status
    assert blocked.reasons[0].startswith("loop default-0 is blocked for ")
    assert Answer(200) == live
    assert "qbridge_loop_blocked_seconds" in names
    assert 1 == found["qbridge_loop_blocked_total", frozenset({("worker", "1")})]


@pytest.mark.redis
def test_a_worker_is_live_but_not_ready_while_its_broker_is_away(service: ServiceFolder) -> None:
    """The reason names the queue and no address; when the broker is back it is ready, and the reconnect is counted."""
    with RedisServer(arguments=("--requirepass", "hunter2"), password="hunter2") as server:
        url = server.url.replace("://", "://:hunter2@")
        port = configure(service, queue=f"{{backend: redis, url: '{url}', key: orders}}")
        with WorkerProcess(service.path):
            wait_for_answer(port, "/readyz", is_ready)
            server.stop()
            away = wait_for_answer(port, "/readyz", lambda answer: not is_ready(answer))
            live = ask(port, "/livez")
            down = metrics_of(port)
            server.start()
            wait_for_answer(port, "/readyz", is_ready)
            back = metrics_of(port)

    labels = frozenset({"worker": "1", "queue": "orders"}.items())
    assert Answer(503, ["queue orders is degraded"]) == away
    assert Answer(200) == live
    assert 0 == down["qbridge_source_up", labels]
    assert (1, 1) == (back["qbridge_source_up", labels], back["qbridge_reconnects_total", labels])


@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_that_drains_is_live_but_not_ready(service: ServiceFolder, processes: int) -> None:
    """While a handler finishes nothing is taken any more; nobody should kill it for that."""
    port = configure(service, processes=processes)
    service.send("wait")
    with WorkerProcess(service.path) as worker:
        wait_for_answer(port, "/readyz", is_ready)
        worker.wait_for(lambda lines: "waits" in lines)
        worker.signal(signal.SIGTERM)
        draining = wait_for_answer(port, "/readyz", lambda answer: not is_ready(answer))
        live = ask(port, "/livez")
        service.write("go on", "")
        code = worker.wait()

    assert (503, "draining") == (draining.status, draining.reasons[0])
    assert Answer(200) == live
    assert ExitCode.OK == code


def test_a_main_loop_that_stands_still_is_seen(service: ServiceFolder) -> None:
    """The probes answer though it can't, and say so: first it is not ready, then it doesn't live; then all is well."""
    port = configure(service)
    with WorkerProcess(service.path) as worker:
        wait_for_answer(port, "/readyz", is_ready)
        worker.signal(signal.SIGUSR1)
        not_ready = wait_for_answer(port, "/readyz", lambda answer: not is_ready(answer))
        frozen = wait_for_answer(port, "/livez", lambda answer: not is_ready(answer))
        service.write("thaw", "")
        wait_for_answer(port, "/livez", is_ready)
        wait_for_answer(port, "/readyz", is_ready)

    assert not_ready.reasons[0].startswith("the main loop has not turned for ")
    assert 503 == frozen.status
    assert frozen.reasons[0].startswith("the main loop has not turned for ")


def test_one_process_answers_for_all(service: ServiceFolder) -> None:
    """The service is ready when every worker is; one that was killed is missed, counted and followed by another."""
    port = configure(service, processes=2)
    with Supervised(service.path) as supervised:
        first, _ = supervised.wait_for_workers(2)
        wait_for_answer(port, "/readyz", is_ready)
        workers = {dict(labels)["worker"] for name, labels in metrics_of(port) if name == "qbridge_source_up"}
        [number] = {entry["worker"] for entry in supervised.events("worker started") if entry["pid"] == first}
        supervised.kill_worker(first)
        missed = wait_for_answer(port, "/readyz", lambda answer: not is_ready(answer))
        live = ask(port, "/livez")
        wait_for_answer(port, "/readyz", is_ready)
        deaths = metrics_of(port)["qbridge_worker_deaths_total", frozenset({("worker", str(number))})]
        supervised.terminate()
        code = supervised.wait()

    assert {"1", "2"} == workers
    assert Answer(503, [f"worker {number}: has told nothing yet"]) == missed
    assert Answer(200) == live
    assert 1 == deaths
    assert ExitCode.CRASHED == code


def test_a_service_stays_ready_while_a_fresh_process_takes_over(service: ServiceFolder) -> None:
    """Recycling is no reason to call a service not ready, though the fresh process has told nothing yet."""
    port = configure(service, recycle="{max_tasks: 1}")
    with Supervised(service.path) as supervised:
        supervised.wait_for_workers(1)
        wait_for_answer(port, "/readyz", is_ready)
        service.send("greet", "anybody")
        answers = [ask(port, "/readyz")]
        ended = frozenset({("worker", "1"), ("outcome", "ack")})
        while not supervised.events("worker was recycled") or metrics_of(port)["qbridge_tasks_ended_total", ended]:
            answers.append(ask(port, "/readyz"))
        answers.append(ask(port, "/readyz"))

    assert [Answer(200)] * len(answers) == answers


@pytest.mark.parametrize("processes", [1, 2])
def test_a_port_in_use_ends_the_service_before_it_starts(service: ServiceFolder, processes: int) -> None:
    """Exit code 78 and one line that names the port; no message was taken."""
    port = configure(service, processes=processes)
    service.send("greet", "anybody")
    with socket.create_server(("127.0.0.1", port)):
        refused = service.run("run")

    assert ExitCode.CONFIG == refused.code
    [line] = [line for line in refused.errors if "nothing can listen" in line]
    assert f"probes: nothing can listen on host '127.0.0.1', port {port}: Address already in use" in line
    assert "started" not in refused.err
    assert 1 == service.stats().ready
