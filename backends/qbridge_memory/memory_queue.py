"""MemoryQueue: the state that the sources of one queue share.

One small lock, held for one batch. Nothing here awaits; all of it may be called from any thread.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, islice

from qbridge import (
    MAX_ERRORS_KEPT,
    Action,
    DeadLetter,
    Delivery,
    Outgoing,
    QueueStats,
    Settled,
    Settlement,
    SourceFull,
)
from qbridge_memory.bell import Bell

__all__ = ["MemoryQueue"]


class MemoryQueue:
    """One queue: what is ready, delayed, in flight and dead. No operation on a message depends on how many there are.

    Made by `MemoryBroker.queue`.

    Args:
        name: For error texts.
        clock: As for `MemoryBroker`.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._places = count()
        self._receipts = count(1)
        # Every message in `ready` has a later place than any that was ever claimed from it, so what comes back (by a
        # release or a lapsed lease) belongs before all of `ready`, in the order of its places.
        self._ready: deque[_Message] = deque()
        self._returned: list[tuple[int, _Message]] = []
        self._delayed: list[tuple[float, int, _Message]] = []
        # By length of the lease, then in the order in which leases end: a renewal moves a message to the end. Not a
        # plain dict: finding its first key costs as many steps as keys were removed before it.
        self._in_flight: dict[float, OrderedDict[object, _Message]] = {}
        self._dead: dict[str, _Dead] = {}
        self._bells: set[Bell] = set()

    def send(self, messages: Sequence[Outgoing], *, max_messages: int) -> None:
        """Take all of `messages`, or none.

        Raises:
            SourceFull: The queue would hold more than `max_messages`, dead letters included.
        """
        enqueued_at = time.time()
        with self._lock:
            now = self._clock()
            held = self._count_held()
            if held + len(messages) > max_messages:
                raise SourceFull(
                    f"memory queue {self.name!r} holds {held} messages and refuses {len(messages)} more: "
                    f"its max_messages is {max_messages}"
                )
            self._bring_due_back(now)
            for outgoing in messages:
                message = _Message(outgoing, enqueued_at)
                if outgoing.delay > 0:
                    self._delay(message, now + outgoing.delay)
                else:
                    self._make_ready(message, now)
            bells = self._take_bells()
        _ring(bells)

    def claim(self, limit: int, lease: float) -> list[Delivery]:
        """Take up to `limit` messages, those that came back first, then in the order in which they became ready."""
        deliveries: list[Delivery] = []
        with self._lock:
            now = self._clock()
            self._bring_due_back(now)
            ready, returned = self._ready, self._returned
            if not ready and not returned:
                return deliveries
            in_flight = self._in_flight.get(lease)
            if in_flight is None:
                in_flight = self._in_flight[lease] = OrderedDict()
            lease_end = now + lease
            for receipt in islice(self._receipts, min(limit, len(ready) + len(returned))):
                message = heapq.heappop(returned)[1] if returned else ready.popleft()
                message.attempts += 1
                message.lease_end = lease_end
                in_flight[receipt] = message
                deliveries.append(
                    Delivery(
                        body=message.body,
                        receipt=receipt,
                        message_id=message.message_id,
                        attempt=message.attempts,
                        crashes=message.crashes,
                        headers=message.headers,
                        enqueued_at=message.enqueued_at,
                    )
                )
        return deliveries

    def settle(self, settlements: Sequence[Settlement], lease: float) -> list[Settled]:
        """End deliveries that were claimed with a lease of this length; LOST for those that are no longer in flight.

        A lease that ran out while nobody took the message still holds: that saves running it twice.
        """
        outcomes: list[Settled] = []
        bells: Iterable[Bell] = ()
        comes_back = False
        with self._lock:
            now = self._clock()
            in_flight = self._in_flight.get(lease, OrderedDict())
            for settlement in settlements:
                message = in_flight.pop(settlement.delivery.receipt, None)
                if message is None:
                    outcomes.append(Settled.LOST)
                    continue
                outcomes.append(Settled.DONE)
                if settlement.action is not Action.ACK:
                    self._keep(message, settlement, now)
                    comes_back = True
            if comes_back:
                bells = self._take_bells()
        _ring(bells)
        return outcomes

    def keep_alive(self, deliveries: Sequence[Delivery], lease: float) -> list[Delivery]:
        """Start the leases anew; return the deliveries that are no longer in flight."""
        lost: list[Delivery] = []
        with self._lock:
            lease_end = self._clock() + lease
            in_flight = self._in_flight.get(lease, OrderedDict())
            for delivery in deliveries:
                message = in_flight.get(delivery.receipt)
                if message is None:
                    lost.append(delivery)
                else:
                    message.lease_end = lease_end
                    in_flight.move_to_end(delivery.receipt)
        return lost

    def stats(self) -> QueueStats:
        """Count what is there."""
        with self._lock:
            now = self._clock()
            self._bring_due_back(now)
            first = self._returned[0][1] if self._returned else self._ready[0] if self._ready else None
            return QueueStats(
                ready=len(self._ready) + len(self._returned),
                delayed=len(self._delayed),
                in_flight=sum(map(len, self._in_flight.values())),
                dead=len(self._dead),
                oldest_age=max(now - first.ready_at, 0.0) if first else 0.0,
            )

    def dead_letters(self, *, limit: int, after: str | None, ids: Sequence[str] | None) -> list[DeadLetter]:
        """List dead letters as `QueueSource.dead_letters` says. An `after` that is gone starts with the oldest."""
        with self._lock:
            if ids is not None:
                found = [self._dead[name] for name in dict.fromkeys(ids) if name in self._dead]
            else:
                everyone = iter(self._dead.values())
                if after in self._dead:
                    next(dead for dead in everyone if dead.name == after)
                found = list(islice(everyone, max(limit, 0)))
        return [dead.as_dead_letter() for dead in found]

    def redrive(self, ids: Sequence[str] | None) -> int:
        """Make dead letters ready again, their attempts and crashes forgotten, their errors kept; None takes all."""
        with self._lock:
            now = self._clock()
            self._bring_due_back(now)
            exhumed = self._exhume(ids)
            for dead in exhumed:
                dead.message.attempts = dead.message.crashes = 0
                self._make_ready(dead.message, now)
            bells = self._take_bells() if exhumed else ()
        _ring(bells)
        return len(exhumed)

    def purge(self, ids: Sequence[str] | None) -> int:
        """Delete dead letters; None takes all."""
        with self._lock:
            return len(self._exhume(ids))

    def watch(self, bell: Bell) -> float:
        """Ring `bell` at the next change; return the seconds after which a message may come back without one."""
        with self._lock:
            self._bells.add(bell)
            if self._ready or self._returned:
                return 0.0
            now = self._clock()
            # Who claims later claims what a bell has told of, so nobody's lease begins unseen after this look.
            pauses = [next(iter(leased.values())).lease_end - now for leased in self._in_flight.values() if leased]
            if self._delayed:
                pauses.append(self._delayed[0][0] - now)
            return max(min(pauses, default=float("inf")), 0.0)

    def unwatch(self, bell: Bell) -> None:
        """Forget `bell`."""
        with self._lock:
            self._bells.discard(bell)

    def let_look_again(self) -> None:
        """End every pause, as the clock was moved."""
        with self._lock:
            bells = self._take_bells()
        _ring(bells)

    def _count_held(self) -> int:
        in_flight = sum(map(len, self._in_flight.values()))
        return len(self._ready) + len(self._returned) + len(self._delayed) + in_flight + len(self._dead)

    def _keep(self, message: _Message, settlement: Settlement, now: float) -> None:
        if settlement.error:
            message.errors = (*message.errors, settlement.error)[-MAX_ERRORS_KEPT:]
        if settlement.action is Action.RELEASE:
            message.attempts -= 1
            heapq.heappush(self._returned, (message.place, message))
        elif settlement.action is Action.DEAD_LETTER:
            self._bury(message, settlement.reason)
        elif settlement.delay > 0:
            self._delay(message, now + settlement.delay)
        else:
            self._make_ready(message, now)

    def _make_ready(self, message: _Message, since: float) -> None:
        message.place = next(self._places)
        message.ready_at = since
        self._ready.append(message)

    def _delay(self, message: _Message, due: float) -> None:
        heapq.heappush(self._delayed, (due, next(self._places), message))

    def _bring_due_back(self, now: float) -> None:
        delayed = self._delayed
        while delayed and delayed[0][0] <= now:
            due, _, message = heapq.heappop(delayed)
            self._make_ready(message, due)
        for leased in self._in_flight.values():
            while leased and next(iter(leased.values())).lease_end <= now:
                _, message = leased.popitem(last=False)
                message.crashes += 1
                heapq.heappush(self._returned, (message.place, message))

    def _bury(self, message: _Message, reason: str) -> None:
        name = message.message_id
        while name in self._dead:  # a sender used one id for several messages
            name = f"{message.message_id}~{next(self._places)}"
        self._dead[name] = _Dead(name, message, reason)

    def _exhume(self, ids: Sequence[str] | None) -> list[_Dead]:
        names = list(self._dead) if ids is None else [name for name in dict.fromkeys(ids) if name in self._dead]
        return [self._dead.pop(name) for name in names]

    def _take_bells(self) -> Iterable[Bell]:
        bells: Iterable[Bell] = ()
        if self._bells:
            bells, self._bells = self._bells, set()
        return bells


class _Message:
    """A message that the queue keeps; changed under the queue's lock only."""

    __slots__ = (
        "attempts",
        "body",
        "crashes",
        "enqueued_at",
        "errors",
        "headers",
        "lease_end",
        "message_id",
        "place",
        "ready_at",
    )

    def __init__(self, outgoing: Outgoing, enqueued_at: float) -> None:
        self.body = outgoing.body
        self.message_id = outgoing.message_id
        self.headers: Mapping[str, str] = dict(outgoing.headers) if outgoing.headers else outgoing.headers
        self.enqueued_at = enqueued_at
        self.attempts = 0
        self.crashes = 0
        self.errors: tuple[str, ...] = ()
        # place, ready_at and lease_end are set when the message gets there.
        self.place: int
        self.ready_at: float
        self.lease_end: float


class _Dead:
    """A message among the dead letters, under the name that is unique there."""

    __slots__ = ("died_at", "message", "name", "reason")

    def __init__(self, name: str, message: _Message, reason: str) -> None:
        self.name = name
        self.message = message
        self.reason = reason
        self.died_at = time.time()

    def as_dead_letter(self) -> DeadLetter:
        message = self.message
        return DeadLetter(
            message_id=self.name,
            body=message.body,
            headers=message.headers,
            reason=self.reason,
            attempts=message.attempts,
            errors=message.errors,
            enqueued_at=message.enqueued_at,
            died_at=self.died_at,
        )


def _ring(bells: Iterable[Bell]) -> None:
    for bell in bells:
        bell.ring()
