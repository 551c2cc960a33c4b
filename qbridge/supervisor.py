"""Supervisor: keeps N worker processes running, drains them together, and ends as the worst of them.

It imports no handlers and opens no queue, so what kills a worker doesn't kill it. What it decides, and why, stands in
docs/decisions/supervisor.md.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from qbridge.child import STEADY, Restarts, WorkerProcess
from qbridge.condition import Condition, WorkerView
from qbridge.config import Config
from qbridge.errors import ConfigError
from qbridge.logs import configure_logging
from qbridge.probes import Probes, probes_of
from qbridge.service import ExitCode
from qbridge.snapshot import WorkerSnapshot

__all__ = ["SILENCE", "Supervisor", "queues_of_one_process"]

log = logging.getLogger(__name__)

#: Seconds without a sign of life after which a worker's main thread is taken for frozen. C code that holds the
#: interpreter for so long has cost the worker its leases already.
SILENCE = 60.0

#: Seconds between two looks at the workers when nothing is heard of them.
_TICK = 1.0

#: What the supervisor ends with, from the worst.
_WORST_FIRST = (ExitCode.ABANDONED, ExitCode.CRASHED, ExitCode.GRACE_EXCEEDED, ExitCode.OK)

#: Ends after which starting another process would end the same way.
_VAIN = frozenset({ExitCode.CONFIG, ExitCode.UNREACHABLE})


@dataclass(slots=True)
class _Slot:
    """The place of one worker.

    Attributes:
        number: From 1.
        process: The worker that serves.
        successor: The one that will serve when it is ready, while the worn one goes on.
        due: When the next process may be started, on the monotonic clock; None starts none.
        restarts: Its pauses.
        deaths: How many of its processes have died.
        told: What probes are told of it.
    """

    number: int
    process: WorkerProcess | None = None
    successor: WorkerProcess | None = None
    due: float | None = 0.0
    restarts: Restarts = field(default_factory=Restarts)
    deaths: int = 0
    told: WorkerView | None = None


def queues_of_one_process(config: Config) -> Iterator[str]:
    """Yield what is wrong with queues that live in one process, in a service that has more."""
    if not config.has_several_processes:
        return
    for name, queue in config.queues.items():
        if not queue.provider.capabilities.shared:
            yield (
                f"queues.{name}.backend is {queue.backend!r}, which keeps its messages in one process, where no other "
                "reaches them and its end loses them: take another backend, or set processes to 1 and recycle nothing"
            )


class Supervisor:
    """Runs the workers of a service. Belongs to the main thread, and runs once.

    Args:
        config: The settings.
        text: The YAML file that they come from. Every worker is given this text, whatever becomes of the file.
        command: Runs a worker.
        burst: End when each worker has found the queues empty.
        silence: Seconds without a sign of life after which a worker is killed.
    """

    def __init__(
        self,
        config: Config,
        text: bytes,
        *,
        command: Sequence[str],
        burst: bool = False,
        silence: float = SILENCE,
    ) -> None:
        self._config = config
        self._text = text
        self._command = command
        self._burst = burst
        self._silence = silence
        self._slots = [_Slot(number) for number in range(1, config.processes + 1)]
        self._running: list[WorkerProcess] = []
        self._signals = 0
        self._left_by = 0
        self._ends: set[ExitCode] = set()
        self._vain: ExitCode | None = None
        self._problems: tuple[str, ...] = ()
        self._looked_at = 0.0
        self._probes: Probes | None = None

    def run(self) -> int:
        """Run until a signal, or in burst mode until the queues are empty; return the exit code.

        The first SIGTERM or SIGINT drains all workers, the second cancels their handlers, the third kills them.

        Returns:
            An `ExitCode`; after a third signal 128 and its number.

        Raises:
            ConfigError: A worker can't use the configuration; the others were drained. Or nothing can listen where
                `probes` says; nothing was started.
        """
        configure_logging(self._config.logging.level, self._config.logging.format)
        # Not uvloop: it has SIGCHLD for itself.
        with (
            probes_of(self._config.probes) as self._probes,
            asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner,
        ):
            runner.run(self._main())
        if self._left_by:
            return 128 + self._left_by
        if self._problems:
            raise ConfigError(*self._problems)
        code = self._vain or next(end for end in _WORST_FIRST if end in self._ends or end is ExitCode.OK)
        log.info("supervisor ends", extra={"exit_code": int(code)})
        return code

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number, changed)
        loop.add_signal_handler(signal.SIGCHLD, changed.set)
        log.info("supervisor started", extra={"processes": len(self._slots), "pid": os.getpid()})
        self._looked_at = monotonic()
        try:
            while True:
                changed.clear()
                self._look(changed)
                if self._left_by or not (self._running or any(slot.due is not None for slot in self._slots)):
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await changed.wait()
        finally:
            for process in self._running:
                if self._left_by:
                    process.signal(signal.SIGKILL)
                process.close()
            for process in self._running if self._left_by else ():
                process.kill()

    @property
    def _is_draining(self) -> bool:
        return self._signals > 0 or self._vain is not None

    def _pause(self) -> float:
        """Return the seconds until something is to be done though nothing happens."""
        waits = [slot.due - monotonic() for slot in self._slots if slot.due is not None and slot.process is None]
        return max(0.0, min([_TICK, *waits]))

    def _look(self, changed: asyncio.Event) -> None:
        """Note who has ended, and do what is due."""
        for process in self._running[:]:
            if (code := process.poll()) is not None:
                self._running.remove(process)
                process.close()
                self._on_exit(process, code)
        if not self._is_draining:
            for slot in self._slots:
                if slot.process is None and slot.due is not None and slot.due <= monotonic():
                    slot.process = self._start(slot, changed)
            self._recycle(changed)
        self._kill_frozen()
        if self._probes is not None:
            views = tuple(map(_view, self._slots))
            self._probes.publish(Condition(at=monotonic(), workers=views, is_draining=self._is_draining))

    def _start(self, slot: _Slot, changed: asyncio.Event) -> WorkerProcess | None:
        try:
            process = WorkerProcess(slot.number, self._command, self._text, on_news=changed.set)
        except OSError as exc:
            self._ends.add(ExitCode.CRASHED)
            pause = self._put_off(slot, 0.0)
            log.error("can't start a worker", extra={"worker": slot.number, "error": str(exc), "delay": pause})
            return None
        self._running.append(process)
        return process

    def _put_off(self, slot: _Slot, lived: float) -> float:
        pause = slot.restarts.pause_after(lived)
        slot.due = monotonic() + pause
        return round(pause, 3)

    def _recycle(self, changed: asyncio.Event) -> None:
        """Let fresh processes take over from worn ones: one at a time, and each before the worn one stops."""
        changing = next((slot for slot in self._slots if slot.successor is not None), None)
        if changing is None:
            for slot in self._slots:
                worn = slot.process is not None and slot.process.worn_by
                if worn and slot.due is not None and slot.due <= monotonic():
                    log.info("a fresh worker follows", extra={**_identity(slot.process), "reason": worn})
                    slot.successor = self._start(slot, changed)
                    return
        elif changing.successor is not None and changing.successor.is_ready:
            worn_one, changing.process, changing.successor = changing.process, changing.successor, None
            if worn_one is not None:
                self._guard_against_churn(changing, worn_one)
                worn_one.stop()

    def _guard_against_churn(self, slot: _Slot, worn_one: WorkerProcess) -> None:
        """Keep the fresh worker for a while, though it is worn out as well, if memory was over the limit so soon."""
        if worn_one.worn_by.startswith("max_rss") and worn_one.lived < STEADY:
            pause = self._put_off(slot, worn_one.lived)
            log.warning(
                "worker was worn out soon after its start, max_rss may be too low",
                extra={**_identity(worn_one), "seconds": round(worn_one.lived, 3), "delay": pause},
            )

    def _on_exit(self, process: WorkerProcess, code: int) -> None:
        slot = self._slots[process.slot - 1]
        if process is slot.successor:
            slot.successor = None
        elif process is slot.process:
            slot.process, slot.successor = slot.successor, None
        end = ExitCode.CONFIG if process.problems else _end_of(process, code)
        if end is None:
            self._on_death(slot, process, code)
        elif end in _VAIN:
            self._give_up(process, end)
        elif self._is_draining:
            self._ends.add(end)
        elif process.is_stopping:
            level = logging.INFO if end is ExitCode.OK else logging.WARNING
            log.log(level, "worker was recycled", extra={**_identity(process), "exit_code": int(end)})
        elif self._burst:
            self._ends.add(end)
            slot.due = None
        else:  # somebody has sent it a signal
            log.info("worker has drained, a fresh one follows", extra={**_identity(process), "exit_code": int(end)})

    def _on_death(self, slot: _Slot, process: WorkerProcess, code: int) -> None:
        facts = {**_identity(process), "exit": _named(code), "seconds": round(process.lived, 3)}
        self._ends.add(ExitCode.CRASHED)
        slot.deaths += 1
        if self._is_draining:
            self._ends.add(ExitCode.ABANDONED)
            log.error("worker died while it drained", extra=facts)
        elif process.is_stopping:
            log.error("worker died while it was recycled", extra=facts)
        elif self._burst and not process.is_ready:  # another would die of the same, and a burst has an end
            log.error("worker died before it was ready", extra=facts)
            slot.due = None
        else:
            log.error("worker died, another is started", extra={**facts, "delay": self._put_off(slot, process.lived)})

    def _give_up(self, process: WorkerProcess, end: ExitCode) -> None:
        if self._vain is None:
            log.error(
                "worker can't go on, nor could another, all drain", extra={**_identity(process), "exit": end.name}
            )
            self._vain = end
            self._problems = process.problems
        self._stop_all()

    def _kill_frozen(self) -> None:
        """Kill who has given no sign of life. Importing takes as long as it takes, and says nothing meanwhile."""
        now = monotonic()
        was_asleep, self._looked_at = now - self._looked_at > _TICK * 5, now
        for process in self._running:
            if was_asleep:  # this process was stopped, or the machine was: nobody could be heard
                process.seen_at = now
            elif (process.is_ready or process.is_stopping) and now - process.seen_at > self._silence:
                log.error("worker gives no sign of life, it is killed", extra=_identity(process))
                process.seen_at = now
                process.signal(signal.SIGKILL)

    def _on_signal(self, number: signal.Signals, changed: asyncio.Event) -> None:
        self._signals += 1
        facts = {"signal": signal.Signals(number).name, "workers": len(self._running)}
        if self._signals == 1:
            log.info("draining, a second signal cancels the handlers", extra=facts)
        elif self._signals == 2:
            log.warning("cancelling the handlers, a third signal leaves at once", extra=facts)
        else:
            self._left_by = int(number)
        self._stop_all(now=self._signals >= 2)
        changed.set()

    def _stop_all(self, *, now: bool = False) -> None:
        for slot in self._slots:
            slot.due = None
        for process in self._running:
            process.stop(now=now)


def _view(slot: _Slot) -> WorkerView:
    """Return what probes are told of a worker. The one that serves counts, and not the one that follows it."""
    process = slot.process
    if process is not None and process.snapshot is None and slot.told is not None:
        return slot.told  # it has just taken over, and what it followed has served until then
    slot.told = None
    if process is not None and process.snapshot is not None:
        with suppress(ValueError):  # of another version of qbridge, which was installed meanwhile
            snapshot = WorkerSnapshot.from_plain(process.snapshot)
            slot.told = WorkerView(
                number=slot.number, snapshot=snapshot, seen_at=process.snapshot_at, deaths=slot.deaths
            )
    return slot.told or WorkerView(number=slot.number, deaths=slot.deaths)


def _end_of(process: WorkerProcess, code: int) -> ExitCode | None:
    """Return the end that a worker has announced, or that it was given before it had begun; None if it died."""
    if process.told_end is not None and code != ExitCode.FAILURE:  # something failed after the drain
        return ExitCode(process.told_end)
    return ExitCode.OK if process.is_stopping and not process.is_ready else None


def _identity(process: WorkerProcess | None) -> dict[str, object]:
    return {} if process is None else {"worker": process.slot, "pid": process.pid}


def _named(code: int) -> str:
    """Return the name of the signal that has ended a process, or its exit code."""
    if code >= 0:
        return str(code)
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"
