"""`TcpProxy` plays each fault as it says, counts truly, and leaves nothing behind."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from qbridge.testing import TcpProxy

#: Seconds that an answer may take on a busy machine.
PATIENCE = 10.0

#: Seconds in which something that must not come would have come.
QUIET = 0.15


@dataclass
class Wire:
    """A proxy, and the server socket that it leads to."""

    proxy: TcpProxy
    listener: socket.socket
    ends: ExitStack = field(default_factory=ExitStack)

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a connection through the proxy: the client's and the server's."""
        client = self.ends.enter_context(socket.create_connection(("127.0.0.1", self.proxy.port), PATIENCE))
        server = self.ends.enter_context(self.listener.accept()[0])
        server.settimeout(PATIENCE)
        return client, server


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A proxy before a server that does what the test does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with TcpProxy("127.0.0.1", listener.getsockname()[1]) as proxy:
            wire = Wire(proxy, listener)
            with wire.ends:
                yield wire


def receive(end: socket.socket, count: int) -> bytes:
    """Return so many bytes, or fewer if the stream ends before."""
    received = b""
    while len(received) < count and (chunk := end.recv(count - len(received))):
        received += chunk
    return received


def send_until_it_fails(end: socket.socket) -> None:
    """Send until all buffers are full, or the other side is gone."""
    end.setblocking(False)
    with suppress(OSError):
        while True:
            end.send(b"x" * 65536)


def says_nothing(end: socket.socket) -> bool:
    """Return whether nothing comes, not even an end, for a moment."""
    end.settimeout(QUIET)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(PATIENCE)
    return False


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
