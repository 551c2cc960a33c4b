"""Intake: the life of one source in the worker: open, receive, settle, keep alive, reconnect.

::

    connecting ──open()──▶ ready ──SourceUnavailable──▶ degraded ──close(), pause, open()──▶ ready
         │                   │                              │
         └───────────────────┴────────── finish() ──────────┴──▶ closed

While a source is ready three loops run side by side: one claims, one settles, one renews leases. When any of them
meets `SourceUnavailable` all three end by themselves, the source is closed, and after a jittered pause opened again.
Handlers run on through that; their settlements wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from itertools import islice
from time import monotonic
from typing import Protocol

from qbridge.errors import SourceClosed, SourceError, SourceMisconfigured
from qbridge.events import EventHub, SourceLost, SourceReady
from qbridge.execution import Job
from qbridge.source import Delivery, QueueSource, Settled, Settlement

__all__ = ["Consumer", "Intake", "IntakeState"]

log = logging.getLogger(__name__)

#: Messages claimed in one call. Above 500 a Redis script only blocks the server longer.
MAX_CLAIM = 500

#: Settlements in one call.
MAX_SETTLE = 1000

#: Unsettled ends above which nothing more is claimed: the broker settles more slowly than handlers work.
MAX_UNSETTLED = 5000

#: Seconds that a claim waits for the first message.
RECEIVE_WAIT = 5.0

#: Seconds beyond its own wait after which a receive that doesn't return is taken for a dead connection.
RECEIVE_MARGIN = 10.0

#: Seconds after which an open, a settle or a renewal that doesn't return is taken for a dead connection.
CALL_TIMEOUT = 30.0

#: Seconds of the first and the longest pause before a lost source is opened again.
RECONNECT_BASE, RECONNECT_CAP = 0.2, 15.0

#: Seconds that closing a source may take.
CLOSE_TIMEOUT = 2.0


class Consumer(Protocol):
    """What an intake needs of the dispatcher. All calls on the main thread's loop."""

    async def claimable(self, intake: Intake) -> tuple[int, float]:
        """Wait until something may be claimed; return how many messages, and how many seconds to wait for one."""

    def accept(self, intake: Intake, deliveries: Sequence[Delivery]) -> None:
        """Take what was claimed, which may be nothing."""

    def interrupt(self, intake: Intake) -> None:
        """Let a `claimable` that waits return with 0."""

    def on_settled(self) -> None:
        """Take note that the broker has settled some of what was held."""

    def lose(self, job: Job) -> None:
        """Stop the work on a delivery whose lease is lost."""


class IntakeState(StrEnum):
    """Where a source is in its life."""

    CONNECTING = "connecting"
    READY = "ready"
    DEGRADED = "degraded"
    CLOSED = "closed"


class Intake:
    """One queue's source in the worker. Belongs to the main thread's loop.

    Args:
        queue: The queue's name.
        source: The source, unopened; the intake opens and closes it.
        consumer: Where claimed messages go.
        events: Where losses and returns are told.
    """

    def __init__(self, queue: str, source: QueueSource, *, consumer: Consumer, events: EventHub) -> None:
        self.queue = queue
        self.source = source
        self.state = IntakeState.CONNECTING
        #: Whether the last claim found nothing; the dispatcher shares its credit by it.
        self.is_idle = False
        self._consumer = consumer
        self._events = events
        #: Deliveries claimed and not yet settled, with their jobs; None once the job is over, or never was.
        self._held: dict[Delivery, Job | None] = {}
        self._settlements: deque[Settlement] = deque()
        self._work = asyncio.Event()  # something to settle, or a reason for the settle loop to look around
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = asyncio.Event()  # claim no more
        self._finishing = asyncio.Event()  # settle what there is, then end
        self._broken = asyncio.Event()  # this connection is lost
        self._claiming = asyncio.Lock()  # held while a receive runs
        self._lost_at: float | None = None  # when the outage began, if there is one
        self._is_told = False  # whether the log tells of that outage

    @property
    def held(self) -> int:
        """How many deliveries are claimed and not yet settled."""
        return len(self._held)

    def hold(self, delivery: Delivery, job: Job | None) -> None:
        """Keep a claimed delivery's lease alive until it is settled."""
        self._held[delivery] = job

    def settle(self, settlement: Settlement) -> None:
        """End a delivery, soon: settlements travel in batches. Order is kept."""
        if settlement.delivery in self._held:
            self._held[settlement.delivery] = None
        self._settlements.append(settlement)
        self._work.set()
        if len(self._settlements) > MAX_UNSETTLED:
            self._room.clear()

    def holds(self, delivery: Delivery) -> bool:
        """Return whether a delivery is claimed and not yet settled."""
        return delivery in self._held

    def running_jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [job for job in self._held.values() if job is not None]

    def forget(self, delivery: Delivery) -> None:
        """Let a delivery go without settling it: it is another worker's, or will be when its lease runs out."""
        self._held.pop(delivery, None)

    async def run(self) -> None:
        """Live until `finish` is called. Called once.

        Raises:
            SourceMisconfigured: The broker refuses what was configured; a person must act.
        """
        failures = 0
        while not self._finishing.is_set():
            fault: Exception | None
            try:
                async with asyncio.timeout(CALL_TIMEOUT):
                    await self.source.open()
            except Exception as exc:  # noqa: BLE001  # a backend's own fault is survived like its broker's
                fault = exc
            else:
                opened_at = monotonic()
                self._tell_ready(is_first=failures == 0)
                fault = await self._serve()
                if monotonic() - opened_at > RECONNECT_CAP:  # a connection that breaks at once is still the same fault
                    failures = 0
            await self._close()
            if fault is None or self._finishing.is_set():
                continue
            if isinstance(fault, SourceMisconfigured):
                raise fault
            failures += 1
            await self._pause(fault, failures)
        self.state = IntakeState.CLOSED

    def stop_claiming(self) -> None:
        """Claim nothing more; a receive under way returns soon."""
        self._stopping.set()
        self._consumer.interrupt(self)
        self._wake_source()

    async def claims_ended(self, timeout: float) -> None:
        """Return when a receive under way has returned, after `timeout` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._claiming:
                pass

    async def finish(self, timeout: float) -> int:
        """Settle what is to be settled, for at most `timeout` seconds, and let `run` end.

        Returns:
            How many settlements did not reach the broker; their messages come back when their leases run out.
        """
        self._stopping.set()
        deadline = monotonic() + timeout
        while self._settlements and monotonic() < deadline:
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - monotonic())):
                    await self._room.wait()
        self._finishing.set()
        self._work.set()
        return len(self._settlements)

    async def _serve(self) -> Exception | None:
        """Work on an open source until it is lost or finished; return what it was lost by."""
        loops = [
            asyncio.create_task(self._claim(), name=f"claim {self.queue}"),
            asyncio.create_task(self._settle(), name=f"settle {self.queue}"),
            asyncio.create_task(self._renew(), name=f"renew {self.queue}"),
        ]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            self._break()
            margin = CLOSE_TIMEOUT if self._finishing.is_set() else RECEIVE_MARGIN
            _, late = await asyncio.wait(loops, timeout=margin)
            for loop in late:  # a dead connection may hold a call for ever
                loop.cancel()
            if late:
                await asyncio.wait(late, timeout=CLOSE_TIMEOUT)
        finally:
            for loop in loops:
                loop.cancel()
        faults = [loop.exception() for loop in loops if loop.done() and not loop.cancelled()]
        return next((fault for fault in faults if isinstance(fault, Exception)), None)

    def _break(self) -> None:
        self._broken.set()
        self._work.set()
        self._consumer.interrupt(self)
        self._wake_source()

    def _wake_source(self) -> None:
        with contextlib.suppress(Exception):  # where that fails, a receive under way ends by its own wait
            self.source.wake()

    async def _claim(self) -> None:
        while not self._stopping.is_set() and not self._broken.is_set():
            if not self._room.is_set():
                await _first_of(self._room, self._stopping, self._broken)
                continue
            limit, wait = await self._consumer.claimable(self)
            if limit < 1 or self._stopping.is_set() or self._broken.is_set():
                self._consumer.accept(self, ())  # gives the unused credit back
                continue
            deliveries: Sequence[Delivery] = ()
            try:
                async with self._claiming, asyncio.timeout(wait + RECEIVE_MARGIN):
                    deliveries = await self.source.receive(min(limit, MAX_CLAIM), wait)
            finally:
                self.is_idle = not deliveries
                self._consumer.accept(self, deliveries)
        # Settling and renewing go on until all is settled or the connection is lost.
        await _first_of(self._finishing, self._broken)

    async def _settle(self) -> None:
        while not self._broken.is_set():
            if not self._settlements:
                if self._finishing.is_set():
                    return
                self._work.clear()
                await self._work.wait()
                continue
            batch = list(islice(self._settlements, MAX_SETTLE))
            async with asyncio.timeout(CALL_TIMEOUT):
                outcomes = await self.source.settle(batch)
            lost = 0
            for settlement, outcome in zip(batch, outcomes, strict=True):
                self._settlements.popleft()
                self._held.pop(settlement.delivery, None)
                lost += outcome is Settled.LOST
            if lost:
                log.warning(
                    "settlements came too late, their messages run again", extra={"queue": self.queue, "count": lost}
                )
            if len(self._settlements) <= MAX_UNSETTLED:
                self._room.set()
            self._consumer.on_settled()

    async def _renew(self) -> None:
        if self.source.lease is None:
            await _first_of(self._finishing, self._broken)
            return
        interval = self.source.lease / 3
        # Right after opening: an outage may have outlived a lease, and its message may be another worker's by now.
        fresh_since = monotonic()
        while True:
            await self._renew_older_than(fresh_since)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await _first_of(self._finishing, self._broken)
            fresh_since = monotonic() - interval / 2
            if self._finishing.is_set() or self._broken.is_set():
                return

    async def _renew_older_than(self, claimed_before: float) -> None:
        held = [delivery for delivery, job in self._held.items() if job is None or job.claimed_at <= claimed_before]
        if not held:
            return
        async with asyncio.timeout(CALL_TIMEOUT):
            lost = await self.source.keep_alive(held)
        for delivery in lost:
            job = self._held.get(delivery)
            if job is not None:
                self.forget(delivery)  # told once, however long its handler takes to end
                log.warning(
                    "lease lost, the handler is cancelled",
                    extra={"queue": self.queue, "task": job.message.task, "message_id": job.message.id},
                )
                self._consumer.lose(job)

    async def _pause(self, exc: Exception, failures: int) -> None:
        """Wait before the next opening, unless the worker leaves meanwhile."""
        delay = min(RECONNECT_CAP, RECONNECT_BASE * 2 ** min(failures - 1, 16)) * random.uniform(0.5, 1.0)
        self.state = IntakeState.DEGRADED
        if self._lost_at is None:
            self._lost_at = monotonic()
        # One line for a loss, however long it lasts. One that follows soon upon another has a line only if it lasts.
        if not self._is_told and (failures == 1 or monotonic() - self._lost_at > RECONNECT_CAP):
            self._is_told = True
            unexpected = None if isinstance(exc, (SourceError, TimeoutError)) else exc
            log.warning(
                "source lost, reconnecting",
                extra={"queue": self.queue, "error": str(exc) or repr(exc)},
                exc_info=unexpected,
            )
        if self._events.active:
            self._events.emit(SourceLost(queue=self.queue, error=str(exc) or repr(exc), delay=delay))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._finishing.wait()

    def _tell_ready(self, *, is_first: bool) -> None:
        self.state = IntakeState.READY
        self._broken.clear()
        outage = 0.0 if self._lost_at is None else monotonic() - self._lost_at
        if self._is_told:
            log.info("source is back", extra={"queue": self.queue, "outage": round(outage, 3)})
        elif is_first:
            log.info("source ready", extra={"queue": self.queue})
        self._lost_at, self._is_told = None, False
        if self._events.active:
            self._events.emit(SourceReady(queue=self.queue, outage=outage))

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.source.close()
        except SourceClosed:
            pass
        except Exception as exc:  # noqa: BLE001  # a fault while leaving must not stop the leaving
            log.warning("source did not close cleanly", extra={"queue": self.queue, "error": str(exc) or repr(exc)})


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
