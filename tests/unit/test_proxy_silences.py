"""`TcpProxy` stalls, swallows, refuses and leaves connections half open as it says, and leaves nothing behind."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from qbridge.testing import TcpProxy
from tests.support.wire import PATIENCE, Wire, receive, says_nothing, send_until_it_fails, wired


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A proxy before a server that does what the test does."""
    with wired() as wire:
        yield wire


def test_held_bytes_arrive_after_restore_and_none_is_lost(wire: Wire) -> None:
    """Nothing passes and nothing is closed meanwhile, not even the end that the client sent."""
    client, server = wire.connect()
    wire.proxy.hold()

    client.sendall(b"late")
    client.shutdown(socket.SHUT_WR)
    server.sendall(b"too")
    later, later_server = wire.connect()
    later.sendall(b"new")
    was_quiet = [says_nothing(end) for end in (server, client, later_server)]
    wire.proxy.restore()

    assert [True] * 3 == was_quiet
    assert b"late" == receive(server, 100)
    assert b"too" == receive(client, 3)
    assert b"new" == receive(later_server, 3)
    assert 0 == wire.proxy.cuts


def test_one_direction_may_be_held_alone(wire: Wire) -> None:
    """Replies pass while requests are held."""
    client, server = wire.connect()
    wire.proxy.hold("requests")

    client.sendall(b"held")
    server.sendall(b"passes")

    assert b"passes" == receive(client, 6)
    assert says_nothing(server)


def test_a_held_request_holds_up_its_connection_alone(wire: Wire) -> None:
    """What carries the marker and what follows waits for `restore`; other connections and the replies go on."""
    client, server = wire.connect()
    other, other_server = wire.connect()
    wire.proxy.hold_request(b"BLOCK")

    client.sendall(b"BLOCK")
    other.sendall(b"free")
    server.sendall(b"reply")
    seen = receive(other_server, 4), receive(client, 5), says_nothing(server)
    client.sendall(b" after")
    wire.proxy.restore()

    assert (b"free", b"reply", True) == seen
    assert b"BLOCK after" == receive(server, 11)


def test_a_held_reply_is_that_of_the_request_with_the_marker(wire: Wire) -> None:
    """The request arrives, its answer waits for `restore`."""
    client, server = wire.connect()
    wire.proxy.hold_reply_to(b"ASK")

    client.sendall(b"ASK")
    asked = receive(server, 3)
    server.sendall(b"answer")
    was_quiet = says_nothing(client)
    wire.proxy.restore()

    assert (b"ASK", True) == (asked, was_quiet)
    assert b"answer" == receive(client, 6)


def test_a_black_hole_takes_all_and_closes_nothing(wire: Wire) -> None:
    """Bytes vanish both ways, ends too, on old and new connections; what lost something is reset by `restore`."""
    client, server = wire.connect()
    idle, idle_server = wire.connect()
    wire.proxy.swallow()
    new, new_server = wire.connect()

    client.sendall(b"lost")
    new.sendall(b"lost")
    new.close()
    was_quiet = [says_nothing(end) for end in (server, client, new_server)]
    was_open = wire.proxy.open
    wire.proxy.restore()
    idle.sendall(b"whole")

    assert [True] * 3 == was_quiet
    assert 3 == was_open
    for end in (client, server, new_server):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert b"whole" == receive(idle_server, 5)


def test_a_black_hole_may_take_one_direction_and_spare_new_connections(wire: Wire) -> None:
    """Replies vanish, requests pass; what connects afterwards is whole."""
    client, server = wire.connect()
    wire.proxy.swallow("replies", new=False)

    client.sendall(b"asked")
    server.sendall(b"lost")
    new, new_server = wire.connect()
    new_server.sendall(b"heard")

    assert b"asked" == receive(server, 5)
    assert says_nothing(client)
    assert b"heard" == receive(new, 5)


@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_who_goes_in_a_black_hole_is_not_missed(wire: Wire, direction: str) -> None:
    """A side that resets its connection into the hole leaves the other one waiting, which may still send."""
    client, server = wire.connect()
    leaver, stayer = (client, server) if direction == "requests" else (server, client)
    wire.proxy.swallow(direction)  # type: ignore[arg-type]  # a parameter
    leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    leaver.close()
    for _ in range(3):
        stayer.sendall(b"are you there?")
        assert says_nothing(stayer)

    assert 1 == wire.proxy.open
    wire.proxy.restore()
    assert 0 == wire.proxy.open


@pytest.mark.parametrize("gone", ["client", "server"])
def test_a_half_open_connection_is_gone_for_one_side_only(wire: Wire, gone: str) -> None:
    """One side meets an error; the other sends into the void until it gives up."""
    client, server = wire.connect()
    leaver, stayer = (client, server) if gone == "client" else (server, client)

    wire.proxy.half_open(gone)  # type: ignore[arg-type]  # a parameter
    with pytest.raises(ConnectionResetError):
        leaver.recv(1)
    stayer.sendall(b"hello?" * 100_000)
    was_quiet = says_nothing(stayer)
    new, new_server = wire.connect()
    new.sendall(b"whole")
    seen = receive(new_server, 5)
    stayer.close()

    assert was_quiet
    assert b"whole" == seen
    wire.proxy.wait_for(lambda: wire.proxy.open == 1)
    assert 1 == wire.proxy.cuts


def test_restore_resets_what_is_half_open(wire: Wire) -> None:
    """The side that was not told is told then."""
    client, _ = wire.connect()
    wire.proxy.half_open("server")

    wire.proxy.restore()

    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_refused_connections_are_refused_by_the_kernel_and_taken_after_restore(wire: Wire) -> None:
    """What is open stays open, the port stays the proxy's, and `restore` listens on it again."""
    client, server = wire.connect()

    wire.proxy.refuse()
    wire.proxy.refuse()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", wire.proxy.port), PATIENCE)
    client.sendall(b"open")
    seen = receive(server, 4)
    wire.proxy.restore()
    new, new_server = wire.connect()
    new.sendall(b"again")

    assert b"open" == seen
    assert b"again" == receive(new_server, 5)
    assert 2 == wire.proxy.accepted


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda proxy: proxy.hold(), id="hold"),
        pytest.param(lambda proxy: proxy.swallow(), id="swallow"),
        pytest.param(lambda proxy: proxy.half_open("client"), id="client gone"),
        pytest.param(lambda proxy: proxy.half_open("server"), id="server gone"),
        pytest.param(lambda proxy: proxy.refuse(), id="refuse"),
        pytest.param(lambda proxy: proxy.delay(requests=60, replies=60), id="delay"),
    ],
)
def test_leaving_ends_connections_thread_and_sockets_whatever_the_fault(
    wire: Wire, fault: Callable[[TcpProxy], None]
) -> None:
    """Full buffers and held bytes don't keep the proxy, and both sides of every connection are ended."""
    threads = threading.active_count()
    with TcpProxy("127.0.0.1", wire.listener.getsockname()[1]) as proxy:
        leaving = Wire(proxy, wire.listener)
        client, server = leaving.connect()
        fault(proxy)
        send_until_it_fails(client)
        began = time.monotonic()

    assert time.monotonic() - began < 2
    assert threads == threading.active_count()
    assert 0 == proxy.open
    server.settimeout(PATIENCE)
    with suppress(ConnectionResetError):  # an end as well
        while server.recv(1 << 20):
            pass
    leaving.ends.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), PATIENCE)
