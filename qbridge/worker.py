"""Worker: the loop threads, the dispatcher and the intakes of one process, from their start to the end of the drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from qbridge.admission import Route
from qbridge.calls import call_within
from qbridge.config import Config, LoopConfig
from qbridge.dispatcher import Dispatcher, DrainReport
from qbridge.errors import SourceError
from qbridge.event_hub import EventHub
from qbridge.execution import Job
from qbridge.intake import RECEIVE_WAIT, Intake
from qbridge.loops import LoopGroup, LoopThread
from qbridge.registry import HandlerRegistry
from qbridge.retry_budget import RetryBudget
from qbridge.source import QueueSource
from qbridge.watchdog import LoopHealth, LoopLimits, Watchdog

if TYPE_CHECKING:
    from qbridge.snapshot import WorkerSnapshot

__all__ = ["Worker"]

log = logging.getLogger(__name__)

#: Seconds that a claim waits in burst mode, before the worker asks whether the queues are empty.
_BURST_WAIT = 0.1

#: Seconds within which a queue must be counted in burst mode.
_COUNT_TIMEOUT = 30.0

#: Seconds beyond the three of the drain in which sources close, and then those in which they are dropped.
_CLOSING, _DROPPING = 0.2, 0.2


class Worker:
    """Runs tasks until it is stopped. Belongs to the loop that runs it, and runs once.

    Args:
        registry: The handlers.
        config: The settings.
        new_source: Makes a source for a queue.
        send: What `TaskContext.send` calls, on a loop thread.
        events: Where to tell what happens.
    """

    def __init__(
        self,
        registry: HandlerRegistry,
        config: Config,
        *,
        new_source: Callable[[str], QueueSource],
        send: Callable[..., Awaitable[str]],
        events: EventHub,
    ) -> None:
        self._registry = registry
        self._config = config
        self._new_source = new_source
        self._send = send
        self._events = events
        #: Set when `run` is over, drain included.
        self.ended = asyncio.Event()
        #: Monotonic seconds by which everything is closed; known when handlers have ended.
        self.leave_at = 0.0
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._stopped_at: float | None = None  # the grace counts from there
        self._dispatcher: Dispatcher | None = None
        self._groups: list[LoopGroup] = []
        self._watchdog: Watchdog | None = None
        self._intakes: list[Intake] = []

    def stop(self, *, now: bool = False) -> None:
        """Begin the drain; with `now`, cancel running handlers without waiting for the grace."""
        if self._stopped_at is None:
            self._stopped_at = monotonic()
        self._stopping.set()
        if now:
            self._hurrying.set()

    @property
    def loop_health(self) -> LoopHealth:
        """How the loops are; see `QBridge.loop_health`."""
        return LoopHealth() if self._watchdog is None else self._watchdog.health

    @property
    def _threads(self) -> list[LoopThread]:
        """The loop threads, and those that were given up and have not ended."""
        return [thread for group in self._groups for thread in (*group.threads, *group.fenced)]

    @property
    def is_wedged(self) -> bool:
        """Whether a loop thread outlived its end, or a plain function its worker."""
        return any(thread.is_wedged for thread in self._threads)

    @property
    def tasks_ended(self) -> int:
        """How many tasks have ended in this worker, well or not."""
        return 0 if self._dispatcher is None else self._dispatcher.tasks_ended

    @property
    def snapshot(self) -> WorkerSnapshot | None:
        """How the worker is; see `QBridge.snapshot`."""
        if self._dispatcher is None:
            return None
        from qbridge.snapshot import LoopGroupSnapshot, QueueSnapshot, WorkerSnapshot

        groups = {
            group.name: LoopGroupSnapshot(
                capacity=group.capacity, in_flight=group.in_flight, given_up=len(group.fenced)
            )
            for group in self._groups
        }
        return WorkerSnapshot(
            queues={
                intake.queue: QueueSnapshot(
                    state=intake.state.value,
                    held=intake.held,
                    unsettled=len(intake.unsettled),
                    counts=replace(intake.counts),
                )
                for intake in self._intakes
            },
            groups=groups,
            waiting=self._dispatcher.in_flight - sum(group.in_flight for group in groups.values()),
            outcomes=self._dispatcher.outcomes,
            loops=self.loop_health,
            is_draining=self._stopping.is_set() or self._dispatcher.is_draining,
        )

    async def run(self, *, burst: bool = False) -> DrainReport:
        """Run until stopped, cancelled, or in burst mode until the queues are empty; drain; see `QBridge.run`."""
        dispatcher = self._dispatcher = self._build(_BURST_WAIT if burst else RECEIVE_WAIT)
        lives: list[asyncio.Task[None]] = []
        watching: asyncio.Task[None] | None = None
        try:
            for thread in self._threads:
                await thread.start()
            if self._watchdog is not None:
                watching = asyncio.create_task(self._watchdog.run(), name="watchdog")
                watching.add_done_callback(_tell_fault)
            lives = [asyncio.create_task(intake.run(), name=f"intake {intake.queue}") for intake in self._intakes]
            ends: list[asyncio.Task[Any]] = [asyncio.create_task(self._stopping.wait())]
            if burst:
                ends.append(asyncio.create_task(self._until_empty(dispatcher)))
            try:
                await asyncio.wait([*lives, *ends], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
        finally:
            # A task of its own: whoever cancels this call a second time hurries the drain, but can't stop it.
            winding_up = asyncio.create_task(self._wind_up(dispatcher, lives))
            cancelled: asyncio.CancelledError | None = None
            while not winding_up.done():
                try:
                    await asyncio.shield(winding_up)
                except asyncio.CancelledError as exc:
                    cancelled = exc
                    self.stop(now=True)
            if watching is not None:
                watching.cancel()
            self.ended.set()
            report = winding_up.result()
        if cancelled is not None:
            raise cancelled
        for life in lives:
            if life.done() and not life.cancelled() and (fault := life.exception()) is not None:
                raise fault
        return report

    def _build(self, receive_wait: float) -> Dispatcher:
        groups = {name: self._new_group(name, settings) for name, settings in self._config.loops.items()}
        self._groups = list(groups.values())
        dispatcher = Dispatcher(
            self._registry,
            groups,
            retry=self._config.retry,
            max_crashes=self._config.max_crashes,
            events=self._events,
            receive_wait=receive_wait,
        )
        limits = {
            groups[name]: LoopLimits(blocked_after=settings.blocked_after, replace_after=settings.replace_after)
            for name, settings in self._config.loops.items()
        }
        self._watchdog = Watchdog(limits, keeper=dispatcher, events=self._events)
        for name, settings in self._config.queues.items():
            intake = Intake(
                name,
                self._new_source(name),
                consumer=dispatcher,
                events=self._events,
                stalled_after=settings.stalled_after,
                overtime=self._config.loops[settings.loops].overtime,
                fail_fast=self._config.fail_fast,
            )
            route = Route(
                codec=self._config.create_codec(name),
                loops=settings.loops,
                max_message_size=settings.max_message_size,
                read_ahead=settings.read_ahead,
            )
            budget = self._config.retry_budget
            dispatcher.add(intake, route, RetryBudget(ratio=budget.ratio, reserve=budget.reserve))
            self._intakes.append(intake)
        return dispatcher

    def _new_group(self, name: str, settings: LoopConfig) -> LoopGroup:
        def make(thread_name: str) -> LoopThread:
            return LoopThread(
                thread_name,
                concurrency=settings.concurrency,
                worker_threads=settings.worker_threads,
                implementation=settings.implementation,
                send=self._send,
                on_ended=self._on_ended,
            )

        return LoopGroup(name, [make(f"{name}-{index}") for index in range(settings.threads)], make=make)

    def _on_ended(self, jobs: list[Job]) -> None:
        if self._dispatcher is not None:
            self._dispatcher.on_ended(jobs)

    async def _until_empty(self, dispatcher: Dispatcher) -> None:
        """Return when no queue has a message ready and nothing runs or waits to be settled here."""
        while True:
            dispatcher.found_nothing.clear()
            await dispatcher.found_nothing.wait()
            if not all(intake.is_idle and not intake.held for intake in self._intakes):
                continue
            try:
                stats = [await call_within(_COUNT_TIMEOUT, intake.source.stats()) for intake in self._intakes]
            except SourceError:  # its intake tells of it, and reconnects
                continue
            except TimeoutError as exc:
                log.warning("a queue can't be counted, all are taken for empty", extra={"error": str(exc)})
                return
            if not any(found.ready for found in stats):
                delayed = sum(found.delayed for found in stats)
                log.info("queues are empty", extra={"delayed": delayed})
                return

    async def _wind_up(self, dispatcher: Dispatcher, lives: list[asyncio.Task[None]]) -> DrainReport:
        """Drain and close all, within the three times of `shutdown` and half a second, whatever hangs."""
        limits = self._config.shutdown
        began = monotonic() if self._stopped_at is None else self._stopped_at
        await dispatcher.wind_down(
            grace=max(0.0, began + limits.grace - monotonic()),
            cancel_grace=limits.cancel_grace,
            hurry=self._hurrying,
        )
        closed_at = monotonic() + limits.flush + _CLOSING
        self.leave_at = closed_at + _DROPPING
        # Beside the settling: nothing that still runs on the loops is settled any more.
        stops = asyncio.gather(*(thread.stop(limits.flush + _CLOSING) for thread in self._threads))
        report = await dispatcher.flush(limits.flush)
        if lives:
            _, late = await asyncio.wait(lives, timeout=max(0.0, closed_at - monotonic()))
            for life in late:
                life.cancel()
            if late:
                await asyncio.wait(late, timeout=_DROPPING)
        await stops
        # What the loops handed back at the very end, after the settlements were flushed, is not settled any more.
        log.info(
            "worker drained",
            extra={
                "finished": report.finished,
                "released": report.released,
                "abandoned": report.abandoned,
                "seconds": round(monotonic() - began, 3),
            },
        )
        if self._events.active:
            from qbridge.events import WorkerDrained

            self._events.emit(
                WorkerDrained(finished=report.finished, released=report.released, abandoned=report.abandoned)
            )
        return report


def _tell_fault(watching: asyncio.Task[None]) -> None:
    if not watching.cancelled() and (fault := watching.exception()) is not None:
        log.error("the watchdog has failed, blocked loops are not seen any more", exc_info=fault)
