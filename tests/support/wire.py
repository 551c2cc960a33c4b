"""Wire: both ends of connections through a `TcpProxy`, in the hands of a test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from qbridge.testing import TcpProxy

__all__ = ["PATIENCE", "Wire", "receive", "says_nothing", "send_until_it_fails", "wired"]

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


@contextmanager
def wired() -> Iterator[Wire]:
    """Start a proxy before a server that does what the test does."""
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
