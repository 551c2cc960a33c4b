"""Probes: what makes a service live and ready, and a server for them that nobody can hold up."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from time import monotonic

import pytest

from qbridge import QBridge
from qbridge.condition import FROZEN, LATE, Condition, WorkerView, why_not_live, why_not_ready
from qbridge.config import ProbesConfig
from qbridge.errors import ConfigError
from qbridge.probe_server import LONGEST, MAX_CONNECTIONS, MAX_REQUEST, ProbeServer
from qbridge.probes import probes_of
from qbridge.snapshot import QueueSnapshot, WorkerSnapshot
from qbridge.watchdog import BlockedLoop, LoopHealth
from tests.support.probing import Answer, ask, free_port

READY = WorkerSnapshot(queues={"orders": QueueSnapshot(state="ready")}, groups={})


def condition(*snapshots: WorkerSnapshot | None, age: float = 0.0, is_draining: bool = False) -> Condition:
    """Return what is known at 100 s of workers that said this `age` seconds before."""
    views = tuple(
        WorkerView(number=number, snapshot=snapshot, seen_at=100 - age)
        for number, snapshot in enumerate(snapshots, start=1)
    )
    return Condition(at=100, workers=views, is_draining=is_draining)


@pytest.fixture
def server() -> Iterator[tuple[ProbeServer, int]]:
    """A server that answers, and its port."""
    port = free_port()
    with ProbeServer(ProbesConfig(port=port)) as answering:
        yield answering, port


@pytest.mark.parametrize(
    ("known", "reasons"),
    [
        (condition(READY), []),
        (condition(READY, READY), []),
        (condition(), ["not started"]),
        (condition(None), ["has told nothing yet"]),
        (condition(READY, None), ["worker 2: has told nothing yet"]),
        (condition(READY, age=LATE + 1), ["silent for 11.0 s"]),
        (condition(READY, is_draining=True), ["draining"]),
        (condition(replace(READY, is_draining=True)), ["draining"]),
        *(
            (condition(replace(READY, queues={"orders": QueueSnapshot(state=state)})), [f"queue orders is {state}"])
            for state in ("connecting", "degraded", "closed")
        ),
        (
            condition(replace(READY, loops=LoopHealth(blocked=(BlockedLoop(loop_thread="default-0", seconds=7.25),)))),
            ["loop default-0 is blocked for 7.2 s"],
        ),
        (
            condition(replace(READY, loops=LoopHealth(is_exhausted=True))),
            ["too many loop threads are blocked, none takes over"],
        ),
        # What is over is no reason.
        (condition(replace(READY, loops=LoopHealth(blocked_total=3, replaced_total=2, held_total=1))), []),
    ],
)
def test_a_service_is_ready_when_nothing_is_in_the_way_of_its_tasks(known: Condition, reasons: list[str]) -> None:
    """Each source that is not open, each blocked loop, a drain and a silent worker is a reason against it."""
    assert reasons == why_not_ready(known, 100.0)


def test_only_a_main_loop_that_stands_still_is_a_reason_to_end_a_process() -> None:
    """It lives while its brokers are away, its loops are blocked and it drains, and until its main loop is frozen."""
    worst = condition(replace(READY, queues={"orders": QueueSnapshot(state="degraded")}), None, is_draining=True)

    assert [] == why_not_live(worst, 100.0)
    assert [] == why_not_live(worst, 100.0 + FROZEN - 1)
    assert ["the main loop has not turned for 31.0 s"] == why_not_live(worst, 100.0 + FROZEN + 1)


def test_a_main_loop_that_stands_still_is_not_ready() -> None:
    """What it said when it turned last holds no longer."""
    assert [] == why_not_ready(condition(READY), 100.0 + LATE - 1)
    assert ["the main loop has not turned for 11.0 s"] == why_not_ready(condition(READY), 100.0 + LATE + 1)


def test_a_snapshot_crosses_a_socket_unchanged() -> None:
    """A supervisor reads from JSON what its worker has written."""
    snapshot = WorkerSnapshot(
        queues={"größe": QueueSnapshot(state="ready", held=3, unsettled=2)},
        groups={},
        waiting=1,
        outcomes={"ack": 7},
        loops=LoopHealth(blocked=(BlockedLoop(loop_thread="default-0", seconds=1.5),), blocked_total=4),
        is_draining=True,
    )
    snapshot.queues["größe"].counts.late = 9

    assert snapshot == WorkerSnapshot.from_plain(json.loads(json.dumps(snapshot.to_plain())))


@pytest.mark.parametrize("plain", [None, "beat", {}, {"queues": 5, "groups": {}}])
def test_what_is_no_snapshot_is_refused(plain: object) -> None:
    """Another version of qbridge may say anything, and the supervisor can tell."""
    with pytest.raises(ValueError, match="WorkerSnapshot"):
        WorkerSnapshot.from_plain(plain)


def test_a_probe_is_answered_by_what_was_published_last(server: tuple[ProbeServer, int]) -> None:
    """Before anything is published a service lives and is not ready; then it is what the main loop says."""
    answering, port = server

    before = [ask(port, "/livez"), ask(port, "/readyz")]
    answering.publish(Condition(at=monotonic(), workers=condition(READY).workers[:0]))
    empty = ask(port, "/readyz")
    now = monotonic()
    answering.publish(Condition(at=now, workers=(WorkerView(number=1, snapshot=READY, seen_at=now),)))
    after = [ask(port, "/livez"), ask(port, "/readyz?verbose")]
    answering.publish(Condition(at=now - FROZEN - 1))
    frozen = ask(port, "/livez")

    assert [Answer(200), Answer(503, ["not started"])] == before
    assert Answer(503, ["not started"]) == empty
    assert [Answer(200), Answer(200)] == after
    assert 503 == frozen.status
    assert "main loop has not turned" in frozen.reasons[0]


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n\r\n", 200),
        (b"HEAD /livez HTTP/1.1\r\n\r\n", 200),
        (b"HEAD /readyz HTTP/1.0\r\n\r\n", 503),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /livez/../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"POST /livez HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"DELETE /metrics HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * MAX_REQUEST + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * MAX_REQUEST + b" HTTP/1.1\r\n\r\n", 400),
    ],
    ids=lambda value: value[:30].decode().split("\r")[0] if isinstance(value, bytes) else str(value),
)
def test_only_small_requests_that_read_are_answered(
    server: tuple[ProbeServer, int], request_text: bytes, status: int
) -> None:
    """GET and HEAD of three paths; the connection is closed after one answer, and a HEAD has no body."""
    _, port = server
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request_text)
        with suppress(OSError):  # it may have answered, and closed, without reading what is too much
            connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: _received(connection), b""))

    head, _, body = answer.partition(b"\r\n\r\n")
    if not answer.startswith(b"HTTP"):  # to a request that names no version; it gets the body alone
        head, body = b"HTTP/1.0 400", answer
    assert str(status) == head.split()[1].decode()
    assert b"Python" not in head
    assert request_text.startswith(b"HEAD") == (body == b"")


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except ConnectionResetError:  # it did not read what was too much
        return b""


def test_who_says_nothing_holds_nobody_up(server: tuple[ProbeServer, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many connections are served at once, further ones are closed; and each has its time."""
    _, port = server
    monkeypatch.setattr("qbridge.probe_server.LONGEST", LONGEST / 5)
    silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(MAX_CONNECTIONS)]
    try:
        _until_served(MAX_CONNECTIONS)
        with pytest.raises(OSError):  # noqa: PT011  # closed without an answer, whatever way that is told
            ask(port, "/livez")
        began = monotonic()
        for connection in silent:
            while monotonic() - began < 30 and _drips(connection):
                pass
        _until_served(0)  # a connection counts until its thread has seen its end
        answer = ask(port, "/livez")
    finally:
        for connection in silent:
            connection.close()

    assert Answer(200) == answer
    assert monotonic() - began < 15


def _drips(connection: socket.socket) -> bool:
    """Say a byte; return whether the server still listens."""
    try:
        connection.sendall(b"G")
        connection.settimeout(0.05)
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def _until_served(count: int) -> None:
    deadline = monotonic() + 10
    while sum("process_request" in thread.name for thread in threading.enumerate()) != count:
        assert monotonic() < deadline, f"{count} connections should be served"


def test_leaving_ends_what_is_being_served() -> None:
    """A client that says nothing delays the end of the process by no second, and neither thread nor port is left."""
    port = free_port()
    before = set(threading.enumerate())
    with ProbeServer(ProbesConfig(port=port)):
        silent = socket.create_connection(("127.0.0.1", port), timeout=10)
        _until_served(1)
        began = monotonic()
    took = monotonic() - began
    with silent:
        rest = _received(silent)

    assert b"" == rest
    assert took < LONGEST / 2
    assert before == set(threading.enumerate())
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/livez")


def test_a_port_in_use_is_a_fault_of_the_configuration(server: tuple[ProbeServer, int]) -> None:
    """Two services on one port: the second one says so, and the first goes on."""
    _, port = server

    with pytest.raises(ConfigError, match=f"host '127.0.0.1', port {port}: Address already in use"):
        ProbeServer(ProbesConfig(port=port))

    assert Answer(200) == ask(port, "/livez")


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host", "a" * 70])
def test_a_host_that_is_not_here_is_a_fault_of_the_configuration(host: str) -> None:
    """An address of another machine, and a name that nobody has."""
    with pytest.raises(ConfigError, match="nothing can listen on host"):
        ProbeServer(ProbesConfig(host=host, port=free_port()))


def test_without_the_key_nothing_listens() -> None:
    """Who configures no probes has no thread for them."""
    before = set(threading.enumerate())

    with probes_of(None) as probes:
        assert probes is None
        assert before == set(threading.enumerate())


def test_metrics_without_their_library_tell_what_to_install(
    server: tuple[ProbeServer, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other probes work without it."""
    _, port = server
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    answers = [ask(port, "/metrics"), ask(port, "/livez")]

    assert [501, 200] == [answer.status for answer in answers]
    assert ['metrics need prometheus_client: pip install "qbridge[metrics]"'] == answers[0].reasons


def test_a_bridge_refuses_probes() -> None:
    """A program that runs a bridge has a server of its own, or none; it is told what to show there."""
    with pytest.raises(ConfigError, match=r"show what QBridge\.snapshot tells"):
        QBridge(probes={"port": free_port()})


async def test_a_bridge_tells_how_it_is() -> None:
    """Nothing before it runs; then its queues and loops, and after its end what it has counted."""
    async with QBridge() as bridge:
        before = bridge.snapshot
        await bridge.send("nobody")
        await bridge.run(burst=True)
        after = bridge.snapshot

    assert before is None
    assert after is not None
    assert ("closed", 0, 0) == (
        after.queues["default"].state,
        after.queues["default"].held,
        after.queues["default"].unsettled,
    )
    assert (500, 0) == (after.groups["default"].capacity, after.groups["default"].in_flight)
    assert after.is_draining
