"""Intake: the life of one source in the worker: open, receive, settle, keep alive, reconnect.

::

    connecting ──open()──▶ ready ──SourceUnavailable──▶ degraded ──close(), pause, open()──▶ ready
         │                   │                              │
         └───────────────────┴────────── finish() ──────────┴──▶ closed

While a source is ready four loops run side by side: one claims, one settles, one renews leases, one watches whether
the others get on. When any of them meets `SourceUnavailable` all end by themselves, the source is closed, and after a
jittered pause opened again. Handlers run on through that; their settlements wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from time import monotonic
from typing import Protocol

from qbridge.calls import any_within, call_within, run_until_one_ends
from qbridge.claiming import Claiming
from qbridge.counts import QueueCounts
from qbridge.errors import SourceClosed, SourceMisconfigured, SourceUnavailable
from qbridge.event_hub import EventHub
from qbridge.execution import Job
from qbridge.leases import Leases
from qbridge.outages import Outages
from qbridge.progress import Progress, SourceStalledError
from qbridge.returns import Returns
from qbridge.settling import Settling
from qbridge.source import Delivery, QueueSource, Settled, Settlement

__all__ = ["Consumer", "Intake", "IntakeState"]

log = logging.getLogger(__name__)

#: Unsettled ends above which nothing more is claimed: the broker settles more slowly than handlers work.
MAX_UNSETTLED = 5000

#: Seconds that a claim waits for the first message.
RECEIVE_WAIT = 5.0

#: Seconds beyond its own wait after which a receive that doesn't return is taken for a dead connection.
RECEIVE_MARGIN = 10.0

#: Seconds after which an open, a settle, a renewal or a count that doesn't return is taken for a dead connection.
CALL_TIMEOUT = 30.0

#: Seconds of the first and the longest pause before a lost source is opened again.
RECONNECT_BASE, RECONNECT_CAP = 0.2, 5.0

#: Seconds that a connection has to last for the pauses to begin anew when it is lost.
STEADY = 1.0

#: Seconds that closing a source may take.
CLOSE_TIMEOUT = 2.0

#: Seconds that closing a source may take when the worker's time to leave is over.
LAST_CLOSE = 0.1


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
        """Stop the work on a delivery whose lease is lost; the intake has forgotten it."""

    def let_go(self, job: Job, ran: float) -> None:
        """Settle a job whose handler has ignored its time limit for too long; it has run for `ran` seconds."""


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
        stalled_after: Seconds of nothing, though messages are ready, before connecting anew; None never does.
        overtime: Seconds that a handler over its timeout keeps its message though it ignores being cancelled.
        fail_fast: Whether `run` ends if the source can't be opened the first time, instead of waiting for it.

    Attributes:
        state: Where the source is in its life.
        is_idle: Whether the last claim found nothing; the dispatcher shares its credit by it.
        counts: What has happened, as numbers.
    """

    def __init__(
        self,
        queue: str,
        source: QueueSource,
        *,
        consumer: Consumer,
        events: EventHub,
        stalled_after: float | None = None,
        overtime: float = 60.0,
        fail_fast: bool = False,
    ) -> None:
        self.queue = queue
        self.source = source
        self.state = IntakeState.CONNECTING
        self.is_idle = False
        self.counts = QueueCounts()
        self._consumer = consumer
        self._events = events
        self._stalled_after = stalled_after
        self._fail_fast = fail_fast
        #: Deliveries claimed and not yet settled, with their jobs; None once the job is over, or never was.
        self._held: dict[Delivery, Job | None] = {}
        self._returns = Returns()
        self._outages = Outages(queue, events)
        self._settling = Settling(
            queue, source, self._held, returns=self._returns, counts=self.counts, on_settled=self._on_settled
        )
        self._settlements = self._settling.waiting
        self._leases = Leases(
            queue,
            source,
            self._held,
            lose=self._lose,
            let_go=consumer.let_go,
            overtime=overtime,
            call_timeout=lambda: CALL_TIMEOUT,
        )
        self._work = self._settling.work
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = asyncio.Event()  # claim no more
        self._hurrying = asyncio.Event()  # settle what there is within seconds
        self._finishing = asyncio.Event()  # end when that is done
        self._broken = asyncio.Event()  # this connection is lost
        self._claiming: Claiming | None = None  # of this connection
        self._is_tied = False  # whether what is in flight comes back when its connection ends
        self._is_noted = False  # whether it is known what is held, for the deliveries that are being accepted
        self._does_not_wait = False  # whether the log tells that the source's receive doesn't wait

    @property
    def held(self) -> int:
        """How many deliveries are claimed and not yet settled."""
        return len(self._held)

    @property
    def unsettled(self) -> Sequence[Settlement]:
        """The ends that the broker has not been told of, oldest first."""
        return self._settlements

    def count_ends(self, count: Callable[[Settlement, Settled], None]) -> None:
        """Call `count` from here on with each end of what is held, and with what the broker has said of it."""
        self._settling.on_end = count

    def hold(self, delivery: Delivery, job: Job | None) -> None:
        """Keep a claimed delivery's lease alive until it is settled."""
        self._held[delivery] = job

    def settle(self, settlement: Settlement) -> None:
        """End a delivery, soon: settlements travel in batches. Order is kept."""
        if settlement.delivery in self._held:
            self._held[settlement.delivery] = None
        if not self._settlements:
            self._work.set()
        self._settlements.append(settlement)
        if len(self._settlements) > MAX_UNSETTLED:
            self._room.clear()

    def holds(self, delivery: Delivery) -> bool:
        """Return whether a delivery is claimed and not yet settled."""
        return delivery in self._held

    def has(self, job: Job) -> bool:
        """Return whether a job is still the one that decides how its delivery ends."""
        return self._held.get(job.delivery) is job

    def running_jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return [job for job in self._held.values() if job is not None]

    def forget(self, delivery: Delivery) -> None:
        """Let a delivery go without settling it: it is another worker's, or will be when its lease runs out."""
        self._held.pop(delivery, None)

    def take_back(self, delivery: Delivery) -> bool:
        """Give a delivery that has come back to the job that runs for it, or has ended; return whether there is one."""
        if delivery.crashes and not self._is_noted:
            self._is_noted = True
            self._returns.note_held(self._held)
        ends = self._returns.take_back(delivery, self._held, self._settlements)
        if ends is None:
            return False
        for settlement in ends:
            self.settle(settlement)
        self.counts.resumed += 1
        log.debug("message came back, its run goes on", extra={"queue": self.queue, "message_id": delivery.message_id})
        return True

    async def run(self) -> None:
        """Live until `finish` is called. Called once.

        Raises:
            SourceMisconfigured: The broker refuses what was configured; a person must act.
            SourceUnavailable: With `fail_fast`: it can't be reached at the start.
        """
        try:
            await self._live()
        except asyncio.CancelledError:  # no time is left: what it has open is dropped
            with contextlib.suppress(Exception):
                await call_within(LAST_CLOSE, self.source.close(), patience=LAST_CLOSE)
            raise
        finally:
            self.state = IntakeState.CLOSED

    def stop_claiming(self) -> None:
        """Claim nothing more; a receive under way returns soon."""
        self._stopping.set()
        self._consumer.interrupt(self)
        self._wake_source()

    async def claims_ended(self, timeout: float) -> None:
        """Return when a receive under way has returned, after `timeout` seconds at most."""
        if self._claiming is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout), self._claiming.receiving:
                    pass

    async def finish(self, timeout: float) -> int:
        """Settle what is to be settled, for at most `timeout` seconds, and let `run` end.

        A broker that is away is asked for at once, and not when the pause is over.

        Returns:
            How many settlements did not reach the broker; their messages come back when their leases run out.
        """
        self._stopping.set()
        self._hurrying.set()
        deadline = monotonic() + timeout
        if not self._broken.is_set():
            await self.claims_ended(timeout)  # what it brings is released
        while self._settlements and monotonic() < deadline:
            self._room.clear()
            await any_within(max(0.0, deadline - monotonic()), self._room)
        self._finishing.set()
        self._work.set()
        return len(self._settlements)

    async def _live(self) -> None:
        failures = 0
        was_open = False
        while not self._finishing.is_set():
            fault: Exception
            try:
                await call_within(CALL_TIMEOUT, self.source.open())
            except Exception as exc:  # a backend's own fault is survived like its broker's
                fault = exc
                if self._fail_fast and not was_open and not isinstance(exc, SourceMisconfigured):
                    await self._close()
                    raise SourceUnavailable(f"queue {self.queue!r} can't be reached: {str(exc) or repr(exc)}") from exc
            else:
                opened_at = monotonic()
                self.counts.reconnects += was_open
                was_open = True
                self.state = IntakeState.READY
                self._is_tied = self.source.capabilities.lease == "connection"
                self._outages.tell_ready()
                fault = await self._serve()
                if self._is_tied:
                    self._returns.note_held(self._held)
                if monotonic() - opened_at > STEADY:  # a connection that breaks at once is still the same fault
                    failures = 0
            await self._close()
            if self._finishing.is_set():
                break
            if isinstance(fault, SourceMisconfigured):
                raise fault
            failures += 1
            await self._pause(fault, failures)

    async def _serve(self) -> Exception:
        """Work on an open source until it is lost or finished; return what it was lost by."""
        # Of this connection only: what an earlier one left behind is no part of it.
        broken = self._broken = asyncio.Event()
        due: dict[str, float] = {}
        claiming = self._claiming = self._new_claiming(broken, due)
        progress = Progress(
            self.queue,
            self.source,
            claiming,
            stalled_after=self._stalled_after,
            due=due,
            broken=broken,
            call_timeout=CALL_TIMEOUT,
        )
        calls = {
            "claim": claiming.run(self._finishing),
            "settle": self._settling.run(due, broken=broken, finishing=self._finishing, timeout=CALL_TIMEOUT),
            "renew": self._leases.run(due, self._finishing, broken),
            "watch": progress.run(),
        }
        try:
            fault = await run_until_one_ends(
                {f"{name} {self.queue}": call for name, call in calls.items()},
                end_others=self._break,
                margin=lambda: CLOSE_TIMEOUT if self._finishing.is_set() else RECEIVE_MARGIN,
                patience=CLOSE_TIMEOUT,
            )
        finally:
            claiming.is_given_up = True
            self._claiming = None
            self._does_not_wait |= claiming.does_not_wait
        return fault or SourceUnavailable(f"queue {self.queue!r}: a call to the broker was cancelled from within")

    def _new_claiming(self, broken: asyncio.Event, due: dict[str, float]) -> Claiming:
        return Claiming(
            self.queue,
            self.source,
            claimable=partial(self._consumer.claimable, self),
            accept=self._accept,
            give_back=self._give_back,
            has_room=self._room,
            stopping=self._stopping,
            broken=broken,
            due=due,
            margin=RECEIVE_MARGIN,
            does_not_wait=self._does_not_wait,
        )

    def _break(self) -> None:
        self._broken.set()
        self._work.set()
        self._consumer.interrupt(self)
        self._wake_source()

    def _wake_source(self) -> None:
        with contextlib.suppress(Exception):  # where that fails, a receive under way ends by its own wait
            self.source.wake()

    def _accept(self, deliveries: Sequence[Delivery]) -> None:
        self.is_idle = not deliveries
        self._is_noted = self._is_tied
        self._consumer.accept(self, deliveries)

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put back what a receive brings that was left behind on a connection of long ago."""
        for delivery in deliveries:
            self.settle(delivery.release())

    def _on_settled(self) -> None:
        if len(self._settlements) <= MAX_UNSETTLED:
            self._room.set()
        self._consumer.on_settled()

    def _lose(self, job: Job) -> None:
        self.forget(job.delivery)  # told once, however long its handler takes to end
        self.counts.leases_lost += 1
        log.warning(
            "lease lost, the handler is cancelled",
            extra={"queue": self.queue, "task": job.message.task, "message_id": job.message.id},
        )
        self._consumer.lose(job)

    async def _pause(self, exc: Exception, failures: int) -> None:
        """Wait before the next opening, unless the worker leaves meanwhile."""
        self.state = IntakeState.DEGRADED
        self.counts.stalls += isinstance(exc, SourceStalledError)
        exponent = 0 if self._hurrying.is_set() else min(failures - 1, 16)
        delay = min(RECONNECT_CAP, RECONNECT_BASE * 2**exponent) * random.uniform(0.5, 1.0)
        self._outages.tell_lost(exc, delay=delay)
        await any_within(delay, self._finishing if self._hurrying.is_set() else self._hurrying)

    async def _close(self) -> None:
        try:
            await call_within(CLOSE_TIMEOUT, self.source.close())
        except SourceClosed:
            pass
        except Exception as exc:  # noqa: BLE001  # a fault while leaving must not stop the leaving
            log.warning("source did not close cleanly", extra={"queue": self.queue, "error": str(exc) or repr(exc)})
