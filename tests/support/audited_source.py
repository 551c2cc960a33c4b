"""AuditedSource: a scripted queue that checks each settlement against what the handler of its delivery did."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from qbridge import Action, DeadLetterReason, Delivery, Settled, Settlement, SourceUnavailable
from qbridge.execution import Job
from qbridge_memory import MemoryBroker
from tests.support.scripted_source import ScriptedSource, Unanswered
from tests.support.stepped_loop import SteppedLoop
from tests.support.waiting import Latch

__all__ = ["MAX_ATTEMPTS", "AuditedSource", "Claim", "End", "Run"]

#: Of every handler.
MAX_ATTEMPTS = 3

T = TypeVar("T")

_CUT = SourceUnavailable("the connection was cut before the reply")

_LAPSED = "a lease ran out though the worker lived and nothing failed"

_FAILURE = frozenset({Action.RETRY, Action.DEAD_LETTER})


class End(StrEnum):
    """How a handler ends, or is to end."""

    RETURN = "return"
    FAIL = "fail"
    RETRY = "retry"
    REJECT = "reject"
    CANCELLED = "cancelled"


@dataclass(slots=True, eq=False, repr=False)
class Run:
    """One start of a handler.

    Attributes:
        delivery: What it was started for.
        loop: The event loop on which it runs.
        is_limited: Whether it has a time limit.
        end: How it ended; None while it runs.
        cancels: How often it was cancelled, be it in vain.
        is_deaf: Whether it ignores that.
        orders: What it is to do next.
        news: Set when there is an order.
    """

    delivery: Delivery
    loop: SteppedLoop
    is_limited: bool
    end: End | None = None
    cancels: int = 0
    is_deaf: bool = False
    orders: deque[object] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def __repr__(self) -> str:
        marks = f"{' deaf' * self.is_deaf}{' cancelled' * self.cancels}"
        return f"<run {_name(self.delivery)}: {self.end or 'running'}{marks}>"

    def give(self, order: object) -> None:
        """Give an order, on the handler's loop."""
        self.orders.append(order)
        self.news.set()

    async def next_order(self) -> object:
        """Wait for an order."""
        while not self.orders:
            self.news.clear()
            await self.news.wait()
        return self.orders.popleft()

    def allowed(self, attempt: int) -> frozenset[Action]:
        """Return how a delivery may be settled that counts as this attempt."""
        failure = frozenset({Action.DEAD_LETTER if attempt >= MAX_ATTEMPTS else Action.RETRY})
        if self.loop.was_blocked:  # it may have been given up before this ended
            return failure | {Action.RELEASE} | self._allowed_by_end(failure)
        return self._allowed_by_end(failure)

    def _allowed_by_end(self, failure: frozenset[Action]) -> frozenset[Action]:
        if self.end is None:  # it may ignore its time limit
            return failure if self.is_limited else frozenset()
        if self.end is End.REJECT:
            return frozenset({Action.DEAD_LETTER})
        if self.end is End.CANCELLED:
            return failure | {Action.RELEASE} if self.is_limited else frozenset({Action.RELEASE})
        if self.end is End.RETURN:
            return failure | {Action.ACK} if self.is_limited and self.cancels else frozenset({Action.ACK})
        if self.end is End.FAIL and self.cancels:  # what it raises because the worker leaves is no failure
            return failure | {Action.RELEASE}
        return failure


@dataclass(slots=True, eq=False, repr=False)
class Claim:
    """One delivery that the worker has claimed, and what became of it.

    Attributes:
        delivery: What was claimed.
        run: The handler's start; None if there was none.
        earlier: Starts for earlier deliveries of the message: it is not run again if its end is known here.
        is_stolen: Whether the broker has given the message to somebody else.
        is_fenced: Whether the worker was told so while it still had a job for it: it must not settle any more.
        asked: How the worker has tried to settle it; more than once only where the outcome was unknown.
        outcome: What the broker answered; None before, and while that is unknown.
        successor: The next delivery of the message to this worker: what is done for this one may go on for that.
    """

    delivery: Delivery
    run: Run | None = None
    earlier: Sequence[Run] = ()
    is_stolen: bool = False
    is_fenced: bool = False
    asked: list[Settlement] = field(default_factory=list)
    outcome: Settled | None = None
    successor: Claim | None = None

    def __repr__(self) -> str:
        marks = f"{' stolen' * self.is_stolen}{' fenced' * self.is_fenced}"
        asked = [str(settlement.action) for settlement in self.asked]
        return f"<claim {_name(self.delivery)}:{marks} {self.run} asked {asked} got {self.outcome}>"

    @property
    def is_over(self) -> bool:
        """Whether the worker has nothing more to do for it."""
        return self.is_fenced or self.outcome is not None

    def fault_of(self, settlement: Settlement) -> str:
        """Return which rule the worker breaks by settling it like this; "" if none."""
        action = settlement.action
        if self.is_fenced:
            return "settled though its lease was known to be lost"
        if self.outcome is not None:
            return "settled twice"
        if not all(settlement is earlier for earlier in self.asked):
            return "settled in two ways"
        if self.run is not None:
            return "" if action in self.run.allowed(self.delivery.attempt) else "settled not as its handler ended"
        if action is Action.RELEASE:
            return ""
        if not self.delivery.message_id.startswith("good"):
            return "" if action in _FAILURE else "a message that can't run was settled as if it had"
        if settlement.reason == DeadLetterReason.CRASHED and self.delivery.crashes > 0:
            return ""
        ended = [run for run in self.earlier if run.end is not None]
        attempts = (self.delivery.attempt, *(run.delivery.attempt for run in ended))
        if any(action in run.allowed(attempt) for run in ended for attempt in attempts) or (
            len(ended) < len(self.earlier) and action in _FAILURE
        ):
            return ""
        return "settled though it was not run"


class AuditedSource(ScriptedSource):
    """A scripted source that remembers each claim, and notes where the worker breaks a rule.

    The worker survives whatever a source raises, so the first broken rule is kept in `broken_rule` as well.
    """

    def __init__(self, broker: MemoryBroker, name: str, *, lease: float, changed: Callable[[], object]) -> None:
        super().__init__(broker, name, lease=lease, changed=changed)
        #: Gives the jobs of which the worker has not seen the end.
        self.running_jobs: Callable[[], Iterable[Job]] = tuple
        self.claims_seen: dict[object, Claim] = {}
        #: How many replies of a receive with messages are still to get lost.
        self.replies_to_lose = 0
        #: Holds back the reply of the next receive with messages.
        self.held_reply: Latch | None = None
        #: How many calls wait for what a test has scripted.
        self.stuck = 0
        #: Whether anything has happened by which a lease may run out.
        self.is_disturbed = False
        #: Whether the worker has begun to leave.
        self.may_claim = True
        #: How often each message was acknowledged.
        self.acknowledged: Counter[str] = Counter()
        self.broken_rule: AssertionError | None = None

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim; lose the reply, or hold it back, where that was ordered."""
        self._require(self.may_claim, "claimed though the worker leaves")
        deliveries = await super().receive(limit, wait)
        self._require(len(deliveries) <= limit, "claimed too much")
        if deliveries and self.replies_to_lose:
            self.replies_to_lose -= 1
            raise _CUT
        if deliveries and self.held_reply is not None:
            latch, self.held_reply = self.held_reply, None
            await self._stuck(latch.wait(1e6))
        for delivery in deliveries:
            before = [claim for claim in self.claims_seen.values() if claim.delivery.message_id == delivery.message_id]
            earlier = [claim.run for claim in before if claim.run is not None]
            claim = self.claims_seen[delivery.receipt] = Claim(delivery, earlier=earlier)
            for old in before:
                if delivery.crashes > old.delivery.crashes:  # else another worker has had it
                    old.successor = old.successor or claim
                    self._note(old.is_over or old.is_stolen or self.is_disturbed, f"{_LAPSED}: {old}")
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        """Settle, once the rules are checked."""
        claims = [self.claims_seen[settlement.delivery.receipt] for settlement in settlements]
        self._require(len(claims) == len(set(claims)), f"settled twice at once: {settlements}")
        for claim, settlement in zip(claims, settlements, strict=True):
            if fault := claim.fault_of(settlement):
                self._require(False, f"{fault}: {settlement.action} {settlement.reason} of {claim}")
            claim.asked.append(settlement)
        done_before = len(self.settled)
        try:
            outcomes = await super().settle(settlements)
        finally:
            for settlement in self.settled[done_before:]:
                self.acknowledged[settlement.delivery.message_id] += settlement.action is Action.ACK
        for claim, outcome in zip(claims, outcomes, strict=True):
            claim.outcome = outcome
            if outcome is Settled.LOST:
                self._explain_loss(claim)
        return outcomes

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Renew leases; note which of the lost ones the worker has a job for."""
        lost = await super().keep_alive(deliveries)
        jobs = {job.delivery for job in self.running_jobs()}
        for delivery in lost:
            claim = self.claims_seen[delivery.receipt]
            claim.is_fenced |= delivery in jobs
            self._explain_loss(claim)
        return lost

    def _explain_loss(self, claim: Claim) -> None:
        self._require(claim.is_stolen or self.is_disturbed or len(claim.asked) > 1, f"{_LAPSED}: {claim}")

    def _require(self, fact: bool, rule: str) -> None:
        self._note(fact, rule)
        assert fact, rule

    def _note(self, fact: bool, rule: str) -> None:
        if not fact:
            self.broken_rule = self.broken_rule or AssertionError(rule)

    async def _obey(self, method: str) -> Unanswered | None:
        return await self._stuck(super()._obey(method))

    async def _stuck(self, call: Awaitable[T]) -> T:
        self.stuck += 1
        try:
            return await call
        finally:
            self.stuck -= 1


def _name(delivery: Delivery) -> str:
    return f"{delivery.message_id}/{delivery.receipt} (attempt {delivery.attempt}, crashes {delivery.crashes})"
