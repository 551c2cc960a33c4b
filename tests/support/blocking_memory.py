"""BlockingMemorySource: a memory queue behind a client that blocks and belongs to the thread that made it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from qbridge import (
    BlockingSource,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueStats,
    Settled,
    Settlement,
)
from qbridge_memory import MemoryBroker, MemoryOptions, backend

__all__ = ["CAPABILITIES", "BlockingMemorySource", "Client", "WakeableMemorySource"]

#: The queue is kept by its broker, so it outlives each source.
CAPABILITIES = replace(backend.capabilities, durable=True, shared=True)

_NO_LIMIT = 10**9


class Client:
    """A connection as many libraries have it: made by `connect`, used by one thread, broken by `cut`.

    Args:
        broker: Where the queue is.
        name: The queue.
        lease: Seconds.
    """

    def __init__(self, broker: MemoryBroker, name: str, lease: float) -> None:
        self._queue = broker.queue(name)
        self._lease = lease
        self._thread = threading.get_ident()
        self._poked = threading.Event()
        #: Set by `cut`.
        self.is_cut = False
        #: Called with a method's name before each of its calls.
        self.before: Callable[[str], object] = lambda name: None

    def claim(self, limit: int, wait: float) -> list[Delivery]:
        """Take messages, and wait for the first one."""
        self._check("claim")
        end = time.monotonic() + wait
        while True:
            deliveries = self._queue.claim(limit, self._lease)
            remaining = end - time.monotonic()
            if deliveries or remaining <= 0 or self._poked.wait(min(remaining, 0.02)):
                self._poked.clear()
                self._check("claim")
                return deliveries

    def poke(self) -> None:
        """End the wait of a `claim`. The only method for other threads."""
        self._poked.set()

    def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """End deliveries."""
        self._check("settle")
        return self._queue.settle(settlements, self._lease)

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Add messages."""
        self._check("send")
        self._queue.send(messages, max_messages=_NO_LIMIT)

    def keep_alive(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Renew leases."""
        self._check("keep_alive")
        return self._queue.keep_alive(deliveries, self._lease)

    def stats(self) -> QueueStats:
        """Count."""
        self._check("stats")
        return self._queue.stats()

    def dead_letters(self, *, limit: int, after: str | None, ids: Sequence[str] | None) -> list[DeadLetter]:
        """List."""
        self._check("dead_letters")
        return self._queue.dead_letters(limit=limit, after=after, ids=ids)

    def redrive(self, ids: Sequence[str] | None) -> int:
        """Exhume."""
        self._check("redrive")
        return self._queue.redrive(ids)

    def purge(self, ids: Sequence[str] | None) -> int:
        """Delete."""
        self._check("purge")
        return self._queue.purge(ids)

    def close(self) -> None:
        """Hang up."""
        assert self._thread == threading.get_ident(), "close() in another thread than the one that connected"

    def cut(self) -> None:
        """Break the connection, as a network does."""
        self.is_cut = True
        self._poked.set()

    def _check(self, name: str) -> None:
        assert self._thread == threading.get_ident(), f"{name}() in another thread than the one that connected"
        self.before(name)
        if self.is_cut:
            raise ConnectionResetError("the connection was cut")


class BlockingMemorySource(BlockingSource):
    """A source that can only look.

    Args:
        name: The queue.
        options: Its lease.
        broker: Where the queue is.
    """

    capabilities = CAPABILITIES
    poll_interval = 0.02

    def __init__(self, name: str, options: MemoryOptions, *, broker: MemoryBroker) -> None:
        super().__init__(name)
        self.lease: float = options.lease
        self.broker = broker
        self.is_reachable = True
        #: The newest one.
        self.client: Client | None = None
        #: The `before` of the clients that are made from here on; its own word is "open".
        self.before: Callable[[str], object] = lambda name: None

    def do_open(self) -> None:
        """Connect."""
        self.before("open")
        if not self.is_reachable:
            raise ConnectionRefusedError("nobody answers")
        assert self.lease is not None
        self.client = Client(self.broker, self.name, self.lease)
        self.client.before = self.before

    def do_receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim."""
        return self.connected.claim(limit, wait)

    def do_settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Settle."""
        return self.connected.settle(settlements)

    def do_send(self, messages: Sequence[Outgoing]) -> None:
        """Send."""
        self.connected.send(messages)

    def do_keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew."""
        return self.connected.keep_alive(deliveries)

    def do_stats(self) -> QueueStats:
        """Count."""
        return self.connected.stats()

    def do_dead_letters(self, *, limit: int, after: str | None, ids: Sequence[str] | None) -> Sequence[DeadLetter]:
        """List."""
        return self.connected.dead_letters(limit=limit, after=after, ids=ids)

    def do_redrive(self, ids: Sequence[str] | None) -> int:
        """Exhume."""
        return self.connected.redrive(ids)

    def do_purge(self, ids: Sequence[str] | None) -> int:
        """Delete."""
        return self.connected.purge(ids)

    def do_close(self) -> None:
        """Disconnect."""
        client, self.client = self.client, None
        if client is not None:
            client.close()

    @property
    def connected(self) -> Client:
        """The client; there must be one."""
        assert self.client is not None, "called before do_open or after do_close"
        return self.client


class WakeableMemorySource(BlockingMemorySource):
    """A source that blocks until there is a message, for as long as it may, and can be woken."""

    poll_interval = 5.0
    longest_wait = 5.0

    def do_wake(self) -> None:
        """Poke the client."""
        if self.client is not None:
            self.client.poke()
