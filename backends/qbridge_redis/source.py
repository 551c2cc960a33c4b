"""RedisSource: one Redis list as a queue with leases, retries and dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from qbridge import (
    Action,
    Capabilities,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueSource,
    QueueStats,
    Settled,
    Settlement,
    SourceClosed,
    SourceMisconfigured,
)
from qbridge_redis.claims import Claims
from qbridge_redis.keys import QueueKeys, check_key
from qbridge_redis.options import RedisOptions
from qbridge_redis.scripts import load_scripts
from qbridge_redis.server import ServerState, check_server, parse_info, warn_of_losses

if TYPE_CHECKING:
    from qbridge_redis.link import Link
    from qbridge_redis.receiver import Receiver

__all__ = ["CAPABILITIES", "RedisSource"]

#: What a server with an append-only file can do; without one, an open source says that it isn't durable.
CAPABILITIES = Capabilities(
    durable=True,
    shared=True,
    ordered=True,
    delay=True,
    lease="timeout",
    attempts=True,
    headers=False,
    dead_letters=True,
)

#: Seconds in which a living worker has surely come back to a server that was away: the core waits 15 s at most before
#: it tries again, and renews its leases first of all.
_GRACE = 20.0

_COMES_BACK = (Action.RETRY, Action.RELEASE)
_INSTALL = 'pip install "qbridge[redis]"'


class RedisSource(QueueSource):
    """A queue on a Redis list. See `QueueSource` for what each method promises.

    Two connections: one for commands, made by `open`, and one that claims and waits, made by the first `receive`, so
    that a producer needs only one. Neither reconnects by itself.

    Args:
        queue: The queue's name; also its key, unless the options name one.
        options: Where the server is, and how patient to be with it.
    """

    def __init__(self, queue: str, options: RedisOptions) -> None:
        self.capabilities = CAPABILITIES
        self.lease = options.lease
        self._queue = queue
        self._options = options
        self._keys = QueueKeys.of(check_key(queue if options.key is None else options.key))
        self._all_keys = self._keys.all()
        self._claims = Claims()
        self._woken = asyncio.Event()
        self._has_warned = False
        self._reap_from = 0
        self._run_id = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._commands: Link | None = None
        self._receiver: Receiver | None = None

    async def open(self) -> None:
        """Connect, and check that the server is fit to hold the queue."""
        if self._commands is not None:
            raise SourceClosed(f"queue {self._queue!r} is open already: close() it first")
        try:
            from qbridge_redis.link import Link
            from qbridge_redis.receiver import Receiver
        except ModuleNotFoundError as exc:
            if exc.name is None or exc.name.partition(".")[0] != "hiredis":
                raise
            raise SourceMisconfigured(
                f"queue {self._queue!r} needs the client library of Redis, which is not installed: {_INSTALL}"
            ) from exc
        options, address = self._options, self._options.address()

        def connect() -> Link:
            return Link(address, connect_timeout=options.connect_timeout, timeout=options.command_timeout)

        commands = connect()
        await commands.open()
        try:
            await self._inspect(commands)
            receiver = Receiver(
                commands=commands,
                connect=connect,
                keys=self._keys,
                claims=self._claims,
                lease=options.lease,
                reap_from=self._reap_from,
                woken=self._woken,
            )
        except BaseException:
            await commands.close()
            raise
        self._loop, self._commands, self._receiver = asyncio.get_running_loop(), commands, receiver

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim up to `limit` messages (at most 500, or 4 MiB and one more), waiting for the first."""
        self._link()
        assert self._receiver is not None
        return await self._receiver.receive(limit, wait)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Settle in batches of 500, each of them one step on the server."""
        from qbridge_redis.settling import MAX_BATCH, settle

        link = self._link()
        outcomes: list[Settled] = []
        for start in range(0, len(settlements), MAX_BATCH):
            outcomes += await settle(link, self._all_keys, settlements[start : start + MAX_BATCH])
        delays = [settlement.delay for settlement in settlements if settlement.action in _COMES_BACK]
        if delays and self._receiver is not None:
            self._receiver.expect(min(delays))
        return outcomes

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Send in batches of up to 1000 messages and 4 MiB; each is accepted whole or not at all."""
        from qbridge_redis.sending import send

        shortest = await send(self._link(), self._keys, self._claims.new_token, messages)
        if shortest is not None and self._receiver is not None:
            self._receiver.expect(shortest)

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew leases, 500 in one step."""
        from qbridge_redis.settling import MAX_BATCH

        link = self._link()
        lease = str(int(self._options.lease * 1e6))
        lost: list[Delivery] = []
        for start in range(0, len(deliveries), MAX_BATCH):
            batch = deliveries[start : start + MAX_BATCH]
            receipts = [str(delivery.receipt) for delivery in batch]
            positions = await link.run(load_scripts().keep_alive, self._all_keys, [lease, *receipts])
            lost += [batch[position - 1] for position in positions]
        return lost

    async def stats(self) -> QueueStats:
        """Count, in one step. Lapsed leases count as ready once the next claim takes them."""
        reply = await self._link().run(load_scripts().stats, self._all_keys, [self._reap_from])
        ready, delayed, in_flight, dead, waited, *body = reply
        return QueueStats(
            ready=ready,
            delayed=delayed,
            in_flight=in_flight,
            dead=dead,
            oldest_age=None if waited < 0 else waited / 1e6,
            oldest_body=body[0] if body else None,
        )

    async def dead_letters(
        self, *, limit: int = 100, after: str | None = None, ids: Sequence[str] | None = None
    ) -> Sequence[DeadLetter]:
        """List dead letters. After one that is gone meanwhile, the list begins again with the oldest."""
        from qbridge_redis.graveyard import find_dead_letters, list_dead_letters

        link = self._link()
        if ids is not None:
            return await find_dead_letters(link, self._all_keys, ids)
        return await list_dead_letters(link, self._all_keys, limit, after)

    async def redrive(self, ids: Sequence[str] | None = None) -> int:
        """Make dead letters ready again, in steps of 500. They keep their ids and their error histories."""
        from qbridge_redis.graveyard import redrive

        return await redrive(self._link(), self._all_keys, ids)

    async def purge(self, ids: Sequence[str] | None = None) -> int:
        """Delete dead letters for good, in steps of 500."""
        from qbridge_redis.graveyard import purge

        return await purge(self._link(), self._all_keys, ids)

    def wake(self) -> None:
        """End the wait of a `receive`, or of the next one; before `open` too."""
        if self._receiver is None:
            self._woken.set()
        else:
            self._receiver.wake()

    async def close(self) -> None:
        """Give back claims that nobody has seen, and disconnect. Takes a few seconds at most."""
        if self._commands is None:
            return
        self._assert_own_loop()
        commands, self._commands = self._commands, None
        receiver, self._receiver = self._receiver, None
        try:
            if receiver is not None:
                await receiver.close()
        finally:
            await commands.close()

    def _link(self) -> Link:
        if self._commands is None:
            raise SourceClosed(f"queue {self._queue!r} is not open: call open() first")
        self._assert_own_loop()
        return self._commands

    def _assert_own_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise SourceClosed(
                f"queue {self._queue!r} belongs to the event loop that opened it, and was called from another one"
            )

    async def _inspect(self, link: Link) -> None:
        information, clock, kind = await link.request(("INFO",), ("TIME",), ("TYPE", self._keys.ready))
        clock = link.accept(clock, doing="asking for its time")
        self._claims.learn_time(int(clock[0]) * 1_000_000 + int(clock[1]))
        kind = link.accept(kind, doing="asking for the type of the key").decode()
        if kind not in ("none", "list"):
            raise SourceMisconfigured(
                f"Redis at {link.where}: the key {self._keys.ready!r} of queue {self._queue!r} is a {kind}, not a "
                "list: give the queue another key"
            )
        state = parse_info(information.decode("utf-8", "replace") if isinstance(information, bytes) else "")
        check_server(state, link.where, unsafe_eviction=self._options.unsafe_eviction)
        self.capabilities = replace(CAPABILITIES, durable=state.append_only is not False)
        if not self._has_warned:
            self._has_warned = True
            warn_of_losses(state, link.where, self._queue)
        self._reap_from = self._first_reaping(state)

    def _first_reaping(self, state: ServerState) -> int:
        """Return the µs of the server's clock before which no lapsed lease is taken away from its worker.

        On a server that was away for longer than a lease, all of them have lapsed, and everything would run twice. So
        living workers get time to come back and renew theirs: after its start, and also after it was replaced or spent
        its first minutes with loading, which those who knew it before see by its other name.
        """
        now, grace = self._claims.server_time(), min(self._options.lease, _GRACE)
        known, self._run_id = self._run_id, state.run_id
        if known not in ("", state.run_id):
            return now + int(grace * 1e6)
        if state.uptime is None:
            return self._reap_from
        return max(min(self._reap_from, now + int(grace * 1e6)), now + int((grace - state.uptime) * 1e6))
