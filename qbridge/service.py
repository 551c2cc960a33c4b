"""Service: a configuration becomes a running process, with signals and an exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import IntEnum
from time import monotonic
from types import FrameType

from qbridge.bridge import QBridge
from qbridge.config import Config
from qbridge.dispatcher import DrainReport
from qbridge.dumps import stack_dumps
from qbridge.errors import SourceError, SourceMisconfigured, SourceUnavailable
from qbridge.interpreter import settle_in, tune
from qbridge.lifeline import Lifeline
from qbridge.logs import configure_logging
from qbridge.loops import LoopImplementation, new_loop
from qbridge.probes import PERIOD, Probes, probes_of
from qbridge.recycling import Wear
from qbridge.registry import HandlerRegistry

__all__ = ["ExitCode", "Service"]

log = logging.getLogger(__name__)

#: Seconds that a worker whose supervisor has gone may take to drain beyond what `shutdown` gives it.
ORPHAN_MARGIN = 10.0

#: Seconds between two looks whether the supervisor is there.
_ORPHAN_LOOK = 1.0

#: Seconds that closing the main event loop may take though all the time to leave is used up.
_LAST_CLOSE = 0.2


class ExitCode(IntEnum):
    """How a `qbridge` command ends."""

    #: All is well; a drain after a signal counts as well.
    OK = 0
    #: Something failed that no other code names.
    FAILURE = 1
    #: The command line is wrong.
    USAGE = 2
    #: The broker can't be reached: commands don't wait for it, nor does a worker that starts with `fail_fast`.
    UNREACHABLE = 3
    #: The grace was over: handlers were cancelled, and their messages released.
    GRACE_EXCEEDED = 5
    #: Work was abandoned: a handler outlived its cancellation, its end did not reach the broker, or a worker process
    #: died while it drained.
    ABANDONED = 6
    #: A worker process died and another took its place, sooner or later (`processes`, `recycle`).
    CRASHED = 7
    #: The configuration is wrong, or a broker refuses it (EX_CONFIG of sysexits.h).
    CONFIG = 78


class Service:
    """Runs a bridge as the main job of a process: this one. `processes` and `recycle` are for `qbridge run`.

    Args:
        config: The settings.
        registry: The handlers, imported already.
        burst: End by itself when the queues are empty.
        lifeline: Where the supervisor speaks, in one of the processes of `qbridge run`.
    """

    def __init__(
        self,
        config: Config,
        registry: HandlerRegistry,
        *,
        burst: bool = False,
        lifeline: Lifeline | None = None,
    ) -> None:
        self._config = config
        self._registry = registry
        self._burst = burst
        self._lifeline = lifeline
        self._signals = 0

    def run(self) -> ExitCode:
        """Run until a signal, or in burst mode until the queues are empty. Called in the main thread, once.

        The first SIGTERM or SIGINT drains, the second cancels the handlers, the third leaves at once. Under a
        supervisor any signal drains, and only the supervisor hurries. Does not return if a thread would hold the
        process's exit: then it ends the process itself, when the log is flushed.

        Raises:
            SourceMisconfigured: A broker refuses what was configured; the rest was drained.
            SourceUnavailable: With `fail_fast`: a broker can't be reached at the start; the rest was drained.
            ConfigError: Nothing can listen where `probes` says; nothing was started.
        """
        worker = None if self._lifeline is None else self._lifeline.slot
        configure_logging(self._config.logging.level, self._config.logging.format, worker=worker)
        if self._lifeline is None and self._config.has_several_processes:
            log.warning("processes and recycle are for 'qbridge run', this is a single process")
        tune()
        implementations = {loops.implementation for loops in self._config.loops.values()}
        main_loop: LoopImplementation = "asyncio" if implementations == {"asyncio"} else "auto"
        # Under a supervisor it is that one which answers.
        with (
            probes_of(self._config.probes if self._lifeline is None else None) as probes,
            asyncio.Runner(loop_factory=lambda: new_loop(main_loop)) as runner,
        ):
            code, bridge, fault = runner.run(self._main(probes))
            # A backend's call that ignores being cancelled, or a name that is looked up, would hold the runner's end.
            leaving = threading.Timer(max(_LAST_CLOSE, bridge.leave_at - monotonic()), _leave, [code])
            leaving.daemon = True
            leaving.start()
        leaving.cancel()
        if bridge.is_wedged:
            log.error("a thread did not end, the process leaves it behind", extra={"exit_code": int(code)})
            _leave(code)
        if fault is not None:
            raise fault
        return code

    async def _main(self, probes: Probes | None) -> tuple[ExitCode, QBridge, SourceError | None]:
        fault: SourceError | None = None
        async with QBridge.from_config(self._registry, self._config) as bridge:
            blocked_after = min(loops.blocked_after for loops in self._config.loops.values())
            loop = asyncio.get_running_loop()
            with self._handled_signals(bridge, loop), stack_dumps(blocked_after, loop):
                telling = None if probes is None else loop.create_task(_tell(probes, bridge), name="probes")
                log.info(
                    "worker started",
                    extra={
                        "queues": ",".join(self._config.queues),
                        "handlers": len(self._registry),
                        "pid": os.getpid(),
                    },
                )
                settle_in()
                try:
                    async with self._supervised(bridge):
                        report = await bridge.run(burst=self._burst)
                    code = _exit_code(report)
                except SourceMisconfigured as exc:
                    log.error("a broker refuses the configuration", extra={"error": str(exc)})
                    code, fault = ExitCode.CONFIG, exc
                except SourceUnavailable as exc:
                    log.error("a broker can't be reached, the worker does not wait for it", extra={"error": str(exc)})
                    code, fault = ExitCode.UNREACHABLE, exc
                finally:
                    if telling is not None:
                        telling.cancel()
                if self._lifeline is not None:
                    self._lifeline.tell_end(code)
            return code, bridge, fault

    @asynccontextmanager
    async def _supervised(self, bridge: QBridge) -> AsyncIterator[None]:
        if self._lifeline is None:
            yield
            return
        wear = Wear(self._config.recycle, lambda: bridge.tasks_ended)
        limits = self._config.shutdown
        with _left_by_orphan(limits.grace + limits.cancel_grace + limits.flush + ORPHAN_MARGIN):
            async with self._lifeline.held(
                stop=lambda now: bridge.stop(now=now),
                wear=wear.reason,
                snapshot=lambda: _plain_snapshot(bridge) if self._config.probes else None,
            ):
                yield

    @contextmanager
    def _handled_signals(self, bridge: QBridge, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        # signal.signal, not loop.add_signal_handler: it still runs when the loop is blocked.
        def on_signal(number: int, frame: FrameType | None) -> None:
            if self._lifeline is not None:
                # The supervisor counts for all its workers. What comes here is the same signal once more, as from
                # systemd, which sends it to every process of a service; or somebody means this worker alone.
                bridge.stop()
                loop.call_soon_threadsafe(_log_own_signal, number)
                return
            self._signals += 1
            if self._signals >= 3:
                os._exit(128 + number)
            bridge.stop(now=self._signals == 2)
            loop.call_soon_threadsafe(_log_signal, number, self._signals)

        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


async def _tell(probes: Probes, bridge: QBridge) -> None:
    """Publish what probes are answered with, until cancelled."""
    from qbridge.condition import Condition, WorkerView

    while True:
        now = monotonic()
        probes.publish(Condition(at=now, workers=(WorkerView(number=1, snapshot=bridge.snapshot, seen_at=now),)))
        await asyncio.sleep(PERIOD)


def _plain_snapshot(bridge: QBridge) -> object:
    snapshot = bridge.snapshot
    return None if snapshot is None else snapshot.to_plain()


def _log_own_signal(number: int) -> None:
    log.info("draining, this worker was signalled itself", extra={"signal": signal.Signals(number).name})


def _log_signal(number: int, count: int) -> None:
    name = signal.Signals(number).name
    if count == 1:
        log.info("draining, a second signal cancels the handlers", extra={"signal": name})
    else:
        log.warning("cancelling the handlers, a third signal leaves at once", extra={"signal": name})


def _exit_code(report: DrainReport) -> ExitCode:
    if report.abandoned:
        return ExitCode.ABANDONED
    return ExitCode.GRACE_EXCEEDED if report.cancelled else ExitCode.OK


@contextmanager
def _left_by_orphan(patience: float) -> Iterator[None]:
    """End this process if its supervisor has gone, and it has not drained `patience` seconds later.

    The main loop learns of that and drains. One that stands still learns nothing, and nobody is left to notice it.
    """
    supervisor, is_over = os.getppid(), threading.Event()

    def watch() -> None:
        while os.getppid() == supervisor:
            if is_over.wait(_ORPHAN_LOOK):
                return
        if not is_over.wait(patience):
            log.error("the supervisor is gone and the main loop stands still, leaving")
            _leave(ExitCode.ABANDONED)

    watching = threading.Thread(target=watch, name="orphan watch", daemon=True)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()


def _leave(code: ExitCode) -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
