"""`TcpProxy` forwards, delays and cuts as it says, and counts truly."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from qbridge.testing import TcpProxy
from tests.support.wire import PATIENCE, Wire, receive, wired


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A proxy before a server that does what the test does."""
    with wired() as wire:
        yield wire


def test_bytes_pass_in_both_directions_and_are_counted(wire: Wire) -> None:
    """What is sent arrives whole and in order, more than fits into any buffer too."""
    client, server = wire.connect()
    sent = bytes(range(256)) * 40_000  # 10 MB

    sending = threading.Thread(target=client.sendall, args=(sent,))
    sending.start()
    received = receive(server, len(sent))
    sending.join()
    server.sendall(b"thanks")
    reply = receive(client, 6)

    assert sent == received
    assert b"thanks" == reply
    wire.proxy.wait_for(lambda: (len(sent), 6) == (wire.proxy.passed("requests"), wire.proxy.passed("replies")))
    assert (1, 1, 0) == (wire.proxy.accepted, wire.proxy.open, wire.proxy.cuts)


def test_an_end_of_one_direction_leaves_the_other_open(wire: Wire) -> None:
    """A client that has said all still gets its answer; the connection is over when both have ended."""
    client, server = wire.connect()

    client.sendall(b"all")
    client.shutdown(socket.SHUT_WR)
    received = receive(server, 100)
    server.sendall(b"answer")
    server.close()

    assert b"all" == received
    assert b"answer" == receive(client, 100)
    wire.proxy.wait_for(lambda: wire.proxy.open == 0)
    assert 0 == wire.proxy.cuts


def test_a_reset_by_one_side_reaches_the_other(wire: Wire) -> None:
    """A process that dies with unread bytes resets its connection, and its peer learns of it."""
    client, server = wire.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    client.close()

    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_without_a_server_clients_are_reset() -> None:
    """A proxy may be there before its server; who comes then is sent away."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TcpProxy("127.0.0.1", port) as proxy:
        with (
            pytest.raises(ConnectionResetError),  # it may come as early as in connecting
            socket.create_connection(("127.0.0.1", proxy.port), PATIENCE) as client,
        ):
            client.recv(1)

        proxy.wait_for(lambda: (1, 0) == (proxy.accepted, proxy.open))


@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_a_delay_holds_each_byte_back_for_its_time_only(wire: Wire, direction: str) -> None:
    """Twenty chunks sent over a while arrive each late, in order, and not each later than the one before."""
    client, server = wire.connect()
    source, sink = (client, server) if direction == "requests" else (server, client)
    wire.proxy.delay(**{direction: 0.3})

    began = time.monotonic()
    for number in range(20):
        source.sendall(b"%02d" % number)
        time.sleep(0.005)  # so that they travel as chunks of their own
    received = receive(sink, 40)
    took = time.monotonic() - began
    sink.sendall(b"x")
    back_at = time.monotonic()
    back = receive(source, 1)

    assert b"".join(b"%02d" % number for number in range(20)) == received
    assert 0.3 <= took < 20 * 0.3 / 2
    assert b"x" == back
    assert time.monotonic() - back_at < 0.3


def test_a_cut_ends_all_open_connections_in_order(wire: Wire) -> None:
    """Both sides read the end of the stream; connections made later are whole."""
    pairs = [wire.connect() for _ in range(3)]

    wire.proxy.cut()

    assert [b""] * 6 == [end.recv(1) for pair in pairs for end in pair]
    assert (3, 0, 3) == (wire.proxy.accepted, wire.proxy.open, wire.proxy.cuts)
    client, server = wire.connect()
    client.sendall(b"x")
    assert b"x" == receive(server, 1)


def test_a_reset_is_an_error_to_both_sides(wire: Wire) -> None:
    """With `reset`, reading fails instead of ending."""
    client, server = wire.connect()

    wire.proxy.cut(reset=True)

    for end in (client, server):
        with pytest.raises(ConnectionResetError):
            end.recv(1)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 25, 30])
@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_a_cut_after_so_many_bytes_lets_just_those_pass(wire: Wire, direction: str, count: int) -> None:
    """Whatever the chunks are, exactly `count` bytes arrive; what passed before doesn't count."""
    client, server = wire.connect()
    source, sink = (client, server) if direction == "requests" else (server, client)
    source.sendall(b"before")
    assert b"before" == receive(sink, 6)
    wire.proxy.wait_for(lambda: 6 == wire.proxy.passed(direction))  # type: ignore[arg-type]  # a parameter

    wire.proxy.cut_after(count, direction)  # type: ignore[arg-type]  # a parameter
    with suppress(OSError):  # it is cut between two of them
        for _ in range(3):
            source.sendall(b"0123456789")

    assert (b"0123456789" * 3)[:count] == receive(sink, 100)
    assert 6 + count == wire.proxy.passed(direction)  # type: ignore[arg-type]  # a parameter
    wire.proxy.wait_for(lambda: wire.proxy.cuts == 1)


def test_a_cut_between_two_chunks_lets_nothing_of_the_second_pass(wire: Wire) -> None:
    """Where the last byte ends a chunk, those that are on their way behind it are not written on."""
    client, server = wire.connect()
    wire.proxy.delay(requests=0.2)  # so that all of them are on their way
    wire.proxy.cut_after(65536, "requests")

    client.sendall(b"x" * 65536 * 4)

    assert 65536 == len(receive(server, 65536 * 4))
    assert 65536 == wire.proxy.passed("requests")


def test_a_cut_after_so_many_bytes_happens_once_and_counts_each_connection_alone(wire: Wire) -> None:
    """Bytes of two connections are not added up, and the second one goes on when the first is cut."""
    first, first_server = wire.connect()
    second, second_server = wire.connect()
    wire.proxy.cut_after(10, "requests")

    first.sendall(b"x" * 9)
    second.sendall(b"y" * 9)
    seen = receive(first_server, 9), receive(second_server, 9)
    first.sendall(b"x")
    ended = receive(first_server, 10)
    second.sendall(b"y" * 9)

    assert (b"x" * 9, b"y" * 9) == seen
    assert b"x" == ended
    assert b"y" * 9 == receive(second_server, 9)
    wire.proxy.wait_for(lambda: wire.proxy.cuts == 1)


@pytest.mark.parametrize("parts", [[b"a COMMAND b"], [b"a COM", b"MAND b"], [b"a C", b"OM", b"MAND", b" b"]])
def test_a_request_arrives_whose_reply_is_cut_off(wire: Wire, parts: list[bytes]) -> None:
    """The server gets the request whole and answers; the client gets an end instead, and so does the server."""
    client, server = wire.connect()
    wire.proxy.cut_reply_to(b"COMMAND")
    client.sendall(b"other")
    server.sendall(receive(server, 5))
    other = receive(client, 5)

    received = b""
    for part in parts:
        client.sendall(part)
        received += receive(server, len(part))
    server.sendall(b"done")

    assert b"other" == other
    assert b"".join(parts) == received
    assert b"" == client.recv(10)
    assert b"" == server.recv(10)
    wire.proxy.wait_for(lambda: wire.proxy.cuts == 1)


def test_only_the_first_request_with_the_bytes_loses_its_reply(wire: Wire) -> None:
    """A client that repeats its request on another connection is answered."""
    client, server = wire.connect()
    again, again_server = wire.connect()
    wire.proxy.cut_reply_to(b"COMMAND")

    for end, accepted in ((client, server), (again, again_server)):
        end.sendall(b"COMMAND")
        receive(accepted, 7)
        accepted.sendall(b"done")

    assert (b"", b"done") == (receive(client, 4), receive(again, 4))


@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_bytes_at_which_a_connection_is_cut_do_not_arrive(wire: Wire, direction: str) -> None:
    """The marker never passes whole, and nothing after it."""
    client, server = wire.connect()
    source, sink = (client, server) if direction == "requests" else (server, client)
    wire.proxy.cut_at(b"END", direction, reset=True)  # type: ignore[arg-type]  # a parameter

    source.sendall(b"before")
    assert b"before" == receive(sink, 6)
    source.sendall(b"the END is near")

    with pytest.raises(ConnectionResetError):
        receive(sink, 1)


def test_restore_forgets_what_was_to_come(wire: Wire) -> None:
    """Cuts that have not happened yet, delays and a reply that was to be dropped are off."""
    client, server = wire.connect()
    wire.proxy.cut_after(3, "requests")
    wire.proxy.cut_at(b"x", "replies")
    wire.proxy.hold_request(b"x")
    wire.proxy.delay(requests=60)
    wire.proxy.restore()
    wire.proxy.cut_reply_to(b"y")
    client.sendall(b"y")
    receive(server, 1)
    wire.proxy.restore()

    client.sendall(b"xxxx")
    server.sendall(b"xxxx")

    assert (b"xxxx", b"xxxx") == (receive(server, 4), receive(client, 4))
    assert 0 == wire.proxy.cuts


def test_waiting_for_what_does_not_come_tells_the_counters(wire: Wire) -> None:
    """The error of `wait_for` says what was there instead."""
    wire.connect()

    with pytest.raises(TimeoutError) as caught:
        wire.proxy.wait_for(lambda: wire.proxy.cuts == 1, timeout=0.05)

    assert (
        "not within 0.05 s: 1 connections accepted, 1 open, 0 cut, 0 bytes of requests and 0 of replies passed"
        == str(caught.value)
    )


def test_misuse_is_refused(wire: Wire) -> None:
    """A count of nothing, an empty marker, a second entering and a use outside the block say what to do."""
    outside = TcpProxy("127.0.0.1", 1)

    with pytest.raises(ValueError, match="count must be 1 or more bytes, not 0"):
        wire.proxy.cut_after(0, "requests")
    with pytest.raises(ValueError, match="marker must be at least one byte"):
        wire.proxy.cut_at(b"", "requests")
    with pytest.raises(RuntimeError, match="entered once"):
        wire.proxy.__enter__()  # what a second with statement does
    with pytest.raises(RuntimeError, match="between entering and leaving"):
        outside.cut()
