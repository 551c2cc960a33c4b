"""Receiver: claims messages and waits for them, on a connection of its own. Imports the client library.

Waiting is one blocking `BLMOVE ready arrived` with the claim sent right behind it: the server runs the claim in the
moment in which the move ends, so a lone task costs one round trip, and whatever is lost on the way is still in
`arrived` or comes back as a claim in doubt. `docs/decisions/redis-claim.md` tells why.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

from qbridge import Delivery, SourceError, SourceUnavailable
from qbridge_redis.claims import MAX_CLAIM, Claim, Claims
from qbridge_redis.keys import QueueKeys
from qbridge_redis.link import Command, Link, Replies, ServerRefusal
from qbridge_redis.scripts import load_scripts
from qbridge_redis.settling import release

__all__ = ["Receiver"]

log = logging.getLogger(__name__)

#: Seconds after which a waiting worker looks for what others released, retried, redrove or left to lapse.
_LONGEST_BLOCK = 1.0

#: Some servers take a block of less than a millisecond for "for ever".
_SHORTEST_BLOCK = 0.01

#: Seconds between looks while the server's memory is full: it refuses to block then.
_FULL_PAUSE = 0.1

#: Seconds between attempts to end a block that hasn't begun yet.
_UNBLOCK_PAUSE = 0.005

#: Seconds that close() gives to claims that are on their way.
_FAREWELL = 1.0


class Receiver:
    """The claiming half of an open source. Belongs to its loop; connects at the first `receive`.

    Args:
        commands: The source's other connection, open.
        connect: Makes an unopened connection.
        keys: The queue's keys.
        claims: What this worker knows of its claims; outlives the receiver.
        lease: Seconds.
        reap_from: Microsecond of the server's clock before which no lapsed lease is taken away from its worker.
        woken: Set when a `receive` is to return soon; outlives the receiver.
    """

    def __init__(
        self,
        *,
        commands: Link,
        connect: Callable[[], Link],
        keys: QueueKeys,
        claims: Claims,
        lease: float,
        reap_from: int,
        woken: asyncio.Event,
    ) -> None:
        self._commands = commands
        self._connect = connect
        self._keys = keys.all()
        self._block_on: Command = ("BLMOVE", keys.ready, keys.arrived, "RIGHT", "LEFT")
        self._claim_with: Command = ("EVALSHA", load_scripts().claim.digest, len(self._keys), *self._keys)
        self._claims = claims
        self._lease = int(lease * 1e6)
        self._reap_from = reap_from
        self._woken = woken
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._client_id: int | None = None
        self._request: asyncio.Future[Replies] | None = None
        self._unblocking: asyncio.Future[Replies] | None = None
        self._is_blocked = False
        self._is_full = False
        self._looked_at = -math.inf
        self._look_at = 0.0
        self._expected_at = math.inf
        self._is_closing = False
        self._returning: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def receive(self, limit: int, wait: float) -> list[Delivery]:
        """Claim up to `limit` messages, waiting at most `wait` seconds for the first; see `QueueSource.receive`."""
        deadline = self._loop.time() + wait
        while self._returning:
            await asyncio.wait(self._returning)
        link = self._link or await self._open_link()
        link.raise_if_lost()
        if self._claims.in_doubt:
            await self._return_doubtful()
        refusals = 0
        while True:
            deliveries = await self._claim(link, min(limit, MAX_CLAIM), deadline)
            if deliveries is None:
                refusals += 1
                if refusals > 2:
                    raise SourceUnavailable(f"Redis at {link.where}, claiming: it forgets scripts, or its clock jumps")
                continue
            if deliveries or self._woken.is_set() or self._is_closing or self._loop.time() >= deadline:
                self._woken.clear()
                return deliveries
            if self._is_full:
                await self._pause(min(_FULL_PAUSE, deadline - self._loop.time()))

    def wake(self) -> None:
        """End the wait of a `receive`, or of the next one."""
        self._woken.set()
        self._unblock()

    def expect(self, delay: float) -> None:
        """Take note that something falls due in `delay` seconds, so that this worker sees it without a look around."""
        at = self._loop.time() + delay
        self._expected_at = min(self._expected_at, at)
        if at < self._look_at:
            self._look_at = at
            if self._is_blocked and delay < _LONGEST_BLOCK:
                self._loop.call_at(at, self._unblock)

    async def close(self) -> None:
        """Let claims on their way come home, give back those that nobody waits for, disconnect. Bounded."""
        self._is_closing = True
        if self._request is not None and not self._request.done():
            self._unblock()
            await asyncio.wait({self._request}, timeout=_FAREWELL)
        if self._returning:
            await asyncio.wait(self._returning, timeout=_FAREWELL)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_FAREWELL)
        if self._link is not None:
            await self._link.close()

    async def _open_link(self) -> Link:
        link = self._connect()
        await link.open()
        try:
            [client_id] = await link.request(("CLIENT", "ID"))
        except BaseException:
            await link.close()
            raise
        # Without the right to ask, wake() waits for the end of a block.
        self._client_id = client_id if isinstance(client_id, int) else None
        self._link = link
        return link

    async def _claim(self, link: Link, limit: int, deadline: float) -> list[Delivery] | None:
        # None: the server ran nothing, and the same may be tried again at once.
        now = self._loop.time()
        look_around_at = self._looked_at + _LONGEST_BLOCK
        until = min(deadline, self._look_at, look_around_at)
        block = 0.0 if self._woken.is_set() or until <= now else max(_SHORTEST_BLOCK, until - now)
        claim = self._claims.begin(limit, block + link.timeout)
        script = (*self._claim_with, claim.token, limit, self._lease, claim.not_after, self._reap_from)
        timer = None
        if block:
            request = link.request((*self._block_on, f"{block:.3f}"), script, timeout=block + link.timeout)
            if until < look_around_at:
                # The server ends a block up to 100 ms late; CLIENT UNBLOCK ends it at once.
                timer = self._loop.call_at(until, self._unblock)
        else:
            request = link.request(script)
        self._request, self._is_blocked = request, bool(block)
        self._expected_at = math.inf
        try:
            replies = await request
        except asyncio.CancelledError:
            request = self._request = link.listen_again(request)
            self._unblock()
            self._start(self._give_back(claim, request), self._returning)
            raise
        except SourceError:
            self._claims.doubt(claim)
            raise
        finally:
            self._is_blocked = False
            if timer is not None:
                timer.cancel()
        return await self._read(link, claim, replies)

    async def _read(self, link: Link, claim: Claim, replies: Replies) -> list[Delivery] | None:
        reply = replies[-1]
        if isinstance(reply, ServerRefusal) and reply.code == "NOSCRIPT":
            await link.teach(load_scripts().claim)
            return None
        reply = link.accept(reply, doing="claiming")
        self._claims.learn_time(reply[0])
        self._looked_at = self._loop.time()
        # What was expected since the claim was sent may be news to its reply.
        self._look_at = min(self._expected_at, math.inf if reply[1] < 0 else self._looked_at + reply[1] / 1e6)
        if reply[2] < 0:
            return None
        deliveries = self._claims.deliveries(claim, reply)
        refusal = replies[0] if isinstance(replies[0], ServerRefusal) else None
        self._is_full = refusal is not None and refusal.code == "OOM"
        if refusal is not None and not self._is_full and not deliveries:
            link.accept(refusal, doing="waiting for messages")
        return deliveries

    async def _give_back(self, claim: Claim, request: asyncio.Future[Replies]) -> None:
        # The caller of this claim was cancelled: what it takes must not wait for its lease to lapse.
        try:
            reply = (await request)[-1]
            if not isinstance(reply, ServerRefusal) and self._claims.deliveries(claim, reply):
                await release(self._commands, self._keys, claim.receipts())
            self._look_at = 0.0
        except SourceError:
            self._claims.doubt(claim)
        except asyncio.CancelledError:
            self._claims.doubt(claim)
            raise

    async def _return_doubtful(self) -> None:
        for claim in self._claims.to_return():
            await release(self._commands, self._keys, claim.receipts())
            self._claims.returned(claim)
            self._look_at = 0.0

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
            except TimeoutError:
                return

    def _unblock(self) -> None:
        request = self._request
        if not self._is_blocked or request is None or request.done() or request is self._unblocking:
            return
        if self._client_id is not None:
            self._unblocking = request
            self._start(self._unblock_until_done(request, self._client_id), self._tasks)

    async def _unblock_until_done(self, request: asyncio.Future[Replies], client_id: int) -> None:
        # The two connections race: the block may not have begun yet.
        try:
            while not request.done() and not await self._commands.call("CLIENT", "UNBLOCK", client_id):
                await asyncio.wait({request}, timeout=_UNBLOCK_PAUSE)
        except SourceError as exc:
            # The block ends by itself within a second, and whoever uses that connection next learns of its loss.
            log.debug("could not end a wait early", extra={"error": str(exc)})

    def _start(self, work: Coroutine[Any, Any, None], group: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        group.add(task)
        self._tasks.add(task)
        task.add_done_callback(group.discard)
        task.add_done_callback(self._tasks.discard)
