"""Watchdog: sees loops that are blocked, tells by whom, and lets a fresh loop thread take over from one that stays so.

It runs on the main thread's loop, which a handler can hold up only with C code that doesn't let go of the interpreter.
Time in which the watchdog could not run itself is held against no loop, as none of them could.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, process_time
from typing import Any, NamedTuple, Protocol

from qbridge import loops
from qbridge.event_hub import EventHub
from qbridge.execution import Job
from qbridge.journal import identity
from qbridge.loops import LoopGroup, LoopThread
from qbridge.stacks import Sight, jobs_on_threads

__all__ = ["BlockedLoop", "Keeper", "LoopHealth", "LoopLimits", "Watchdog"]

log = logging.getLogger(__name__)

#: Seconds between two looks at the loops.
TICK = 0.25

#: Seconds that a fresh loop thread gets to start.
_START_TIMEOUT = 10.0

#: Loop threads of one group that were given up and have not ended, above which no more are replaced.
MAX_FENCED = 10

#: The part of the time in which the main loop was held up that a handler must have run to be named.
_MOST = 0.5

#: Handlers that are named when the main loop was held up.
_MAX_NAMED = 5


class LoopLimits(NamedTuple):
    """What the loops of a group are held to.

    Attributes:
        blocked_after: Seconds without a sign of life after which a loop is blocked.
        replace_after: And those after which it is given up; None never does.
    """

    blocked_after: float
    replace_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedLoop:
    """One loop that is blocked.

    Attributes:
        loop_thread: The loop thread's name.
        seconds: For how long.
    """

    loop_thread: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopHealth:
    """How the loops of a worker are, and what has happened to them since it started.

    Attributes:
        blocked: The loops that are blocked at this moment.
        is_exhausted: Whether loop threads stay blocked because too many of their group were given up already: only a
            new process helps.
        blocked_total: How often a loop was blocked.
        replaced_total: How many loop threads were given up.
        held_total: How often the main loop was held up: C code held the interpreter, or the process was stopped.
    """

    blocked: tuple[BlockedLoop, ...] = ()
    is_exhausted: bool = False
    blocked_total: int = 0
    replaced_total: int = 0
    held_total: int = 0


class Keeper(Protocol):
    """What a watchdog needs of the dispatcher. All calls on the main thread's loop."""

    @property
    def is_draining(self) -> bool:
        """Whether nothing more is started."""

    def redeal(self, thread: LoopThread) -> None:
        """Deal anew what a loop thread has not received: it is blocked, or turns again."""

    def give_up(self, thread: LoopThread, sight: Sight, seconds: float) -> None:
        """Settle what a loop thread has that is given up."""


@dataclass(slots=True)
class _Watch:
    """What is known of one loop thread.

    Attributes:
        beat: Its last sign of life that was seen.
        silent: Seconds without one, as far as they are held against it.
    """

    beat: float
    silent: float = 0.0

    def seconds(self) -> float:
        return round(monotonic() - self.beat, 3)


class Watchdog:
    """Watches the loops of a worker. Belongs to the main thread's loop.

    Args:
        groups: The loop groups, each with its limits.
        keeper: Who settles and deals what a blocked loop has.
        events: Where to tell of it.
    """

    def __init__(self, groups: Mapping[LoopGroup, LoopLimits], *, keeper: Keeper, events: EventHub) -> None:
        self._groups = dict(groups)
        self._keeper = keeper
        self._events = events
        self._watches: dict[LoopThread, _Watch] = {}
        self._exhausted: set[LoopGroup] = set()
        self._blocked_total = 0
        self._replaced_total = 0
        self._held_total = 0

    @property
    def health(self) -> LoopHealth:
        """How the loops are; cheap enough to be asked for once a second."""
        return LoopHealth(
            blocked=tuple(
                BlockedLoop(loop_thread=thread.name, seconds=watch.seconds())
                for thread, watch in self._watches.items()
                if thread.is_blocked
            ),
            is_exhausted=bool(self._exhausted),
            blocked_total=self._blocked_total,
            replaced_total=self._replaced_total,
            held_total=self._held_total,
        )

    async def run(self) -> None:
        """Watch until cancelled; begin when the loop threads have started."""
        shortest = min((limits.blocked_after for limits in self._groups.values()), default=math.inf)
        tick = min(TICK, shortest / 2)
        looked = monotonic()
        while True:
            slept, busy = monotonic(), process_time()
            await asyncio.sleep(tick)
            late = monotonic() - slept - tick
            passed, looked = monotonic() - looked, monotonic()
            ended = [job for group in self._groups for thread in group.threads for job in thread.just_ended()]
            if late >= shortest:
                self._tell_held(late, process_time() - busy, ended)
            for group, limits in self._groups.items():
                for thread in group.threads:
                    await self._look_at(thread, group, limits, passed - late)
            self._forget_ended()

    async def _look_at(self, thread: LoopThread, group: LoopGroup, limits: LoopLimits, passed: float) -> None:
        watch = self._watches.get(thread)
        if watch is None:
            watch = self._watches[thread] = _Watch(thread.last_beat)
        if thread.is_closing:
            return
        if thread.last_beat != watch.beat:
            if thread.is_blocked:
                self._tell_freed(thread, thread.last_beat - watch.beat)
            watch.beat, watch.silent = thread.last_beat, 0.0
            return
        if monotonic() - watch.beat > loops.HEARTBEAT:  # before that no sign is due
            watch.silent += passed
        if not thread.is_blocked and watch.silent >= limits.blocked_after:
            self._tell_blocked(thread, watch)
        if limits.replace_after is not None and watch.silent >= limits.replace_after:
            await self._replace(thread, group, watch)

    def _tell_blocked(self, thread: LoopThread, watch: _Watch) -> None:
        thread.is_blocked = True
        self._blocked_total += 1
        sight, seconds = thread.look(), watch.seconds()
        fields: dict[str, Any] = {"loop_thread": thread.name, "seconds": seconds}
        known = identity(sight.suspects[0]) if len(sight.suspects) == 1 else {}
        log.warning("a handler blocks its loop", extra=fields | known | {"stack": sight.stack})
        if self._events.active:
            from qbridge.events import LoopBlocked

            self._events.emit(
                LoopBlocked(
                    loop_thread=thread.name,
                    queue=known.get("queue", ""),
                    task=known.get("task", ""),
                    message_id=known.get("message_id", ""),
                    seconds=seconds,
                )
            )
        self._keeper.redeal(thread)

    def _tell_freed(self, thread: LoopThread, seconds: float) -> None:
        thread.is_blocked = False
        log.info("a loop is no longer blocked", extra={"loop_thread": thread.name, "seconds": round(seconds, 3)})
        if self._events.active:
            from qbridge.events import LoopFreed

            self._events.emit(LoopFreed(loop_thread=thread.name, seconds=seconds))
        self._keeper.redeal(thread)

    async def _replace(self, thread: LoopThread, group: LoopGroup, watch: _Watch) -> None:
        """Give a loop thread up, once there is another one in its place."""
        successor: LoopThread | None = None
        if not self._keeper.is_draining:
            if len(group.fenced) >= MAX_FENCED:
                self._tell_exhausted(thread, group)
                return
            successor = await self._start_successor(group)
            if successor is None:
                watch.silent = 0.0  # tried again after as long a time
                return
            if thread.last_beat != watch.beat or thread.is_closing:
                await successor.stop(_START_TIMEOUT)
                return
        sight, seconds = thread.look(), watch.seconds()
        group.replace(thread, successor)
        thread.is_blocked = False
        self._replaced_total += 1
        name = successor.name if successor else ""
        fields = {"loop_thread": thread.name, "successor": name, "seconds": seconds}
        log.error("a blocked loop thread is given up", extra=fields)
        self._keeper.give_up(thread, sight, seconds)
        if self._events.active:
            from qbridge.events import LoopReplaced

            self._events.emit(LoopReplaced(loop_thread=thread.name, successor=name, seconds=seconds))

    async def _start_successor(self, group: LoopGroup) -> LoopThread | None:
        successor = group.make_thread()
        if successor is None:
            return None
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await successor.start()
        except (RuntimeError, TimeoutError) as exc:
            log.error("no loop thread can be started for a blocked one", extra={"group": group.name, "error": str(exc)})
            await successor.stop(0.0)
            return None
        except asyncio.CancelledError:
            await successor.stop(_START_TIMEOUT)
            raise
        return successor

    def _tell_exhausted(self, thread: LoopThread, group: LoopGroup) -> None:
        if group not in self._exhausted:
            self._exhausted.add(group)
            log.error(
                "too many loop threads are blocked, none takes over any more",
                extra={"loop_thread": thread.name, "given_up": len(group.fenced)},
            )

    def _tell_held(self, seconds: float, worked: float, ended: list[Job]) -> None:
        """Tell that this loop could not run, with the handlers that were on the way all that time: one may be why."""
        self._held_total += 1
        # Whoever held the interpreter may go on, or be done, before this loop runs.
        began = monotonic() - seconds * _MOST
        suspects = [
            job
            for job in {*jobs_on_threads(), *ended}
            if job.started_at <= began and (not job.ended_at or job.ended_at - job.started_at >= seconds * _MOST)
        ]
        suspects.sort(key=lambda job: job.started_at)
        named = [f"{job.message.task} ({job.message.id})" for job in suspects[:_MAX_NAMED]]
        log.warning(
            "the main loop was held up",
            extra={"seconds": round(seconds, 3), "cpu_seconds": round(worked, 3), "handlers": ", ".join(named)},
        )

    def _forget_ended(self) -> None:
        known = {thread for group in self._groups for thread in group.threads}
        self._watches = {thread: watch for thread, watch in self._watches.items() if thread in known}
        self._exhausted = {group for group in self._exhausted if len(group.fenced) >= MAX_FENCED}
