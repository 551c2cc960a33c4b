"""Service: a configuration becomes a running process, with signals and an exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType

from qbridge.bridge import QBridge
from qbridge.config import Config
from qbridge.dispatcher import DrainReport
from qbridge.errors import SourceMisconfigured
from qbridge.logs import configure_logging
from qbridge.loops import LoopImplementation, new_loop
from qbridge.registry import HandlerRegistry

__all__ = ["ExitCode", "Service"]

log = logging.getLogger(__name__)

#: Seconds after which a thread that wants to run may take the interpreter from a busy one. With CPython's 5 ms a
#: handler that computes cuts the broker's traffic in the main thread from 132,000 to 10,000 round trips a second;
#: with 0.5 ms it keeps 58,000 (measured November 2026, CPython 3.11, two cores).
SWITCH_INTERVAL = 0.0005


class ExitCode(IntEnum):
    """How a `qbridge` command ends."""

    #: All is well; a drain after a signal counts as well.
    OK = 0
    #: Something failed that no other code names.
    FAILURE = 1
    #: The command line is wrong.
    USAGE = 2
    #: The broker can't be reached (commands that don't wait for it).
    UNREACHABLE = 3
    #: The grace was over: handlers were cancelled, and their messages released.
    GRACE_EXCEEDED = 5
    #: Work was abandoned: a handler outlived its cancellation, or its end did not reach the broker.
    ABANDONED = 6
    #: The configuration is wrong, or a broker refuses it (EX_CONFIG of sysexits.h).
    CONFIG = 78


class Service:
    """Runs a bridge as the main job of a process.

    Args:
        config: The settings.
        registry: The handlers, imported already.
        burst: End by itself when the queues are empty.
    """

    def __init__(self, config: Config, registry: HandlerRegistry, *, burst: bool = False) -> None:
        self._config = config
        self._registry = registry
        self._burst = burst
        self._signals = 0

    def run(self) -> ExitCode:
        """Run until a signal, or in burst mode until the queues are empty. Called in the main thread, once.

        The first SIGTERM or SIGINT drains, the second cancels the handlers, the third leaves at once. Does not return
        if a thread would hold the process's exit: then it ends the process itself, when the log is flushed.

        Raises:
            SourceMisconfigured: A broker refuses what was configured; the rest was drained.
        """
        configure_logging(self._config.logging.level, self._config.logging.format)
        sys.setswitchinterval(SWITCH_INTERVAL)
        implementations = {loops.implementation for loops in self._config.loops.values()}
        main_loop: LoopImplementation = "asyncio" if implementations == {"asyncio"} else "auto"
        with asyncio.Runner(loop_factory=lambda: new_loop(main_loop)) as runner:
            try:
                code, is_wedged = runner.run(self._main())
            except SourceMisconfigured as exc:
                log.error("a broker refuses the configuration", extra={"error": str(exc)})
                raise
        if is_wedged:
            log.error("a thread did not end, the process leaves it behind", extra={"exit_code": int(code)})
            _leave(code)
        return code

    async def _main(self) -> tuple[ExitCode, bool]:
        async with QBridge.from_config(self._registry, self._config) as bridge:
            with self._handled_signals(bridge, asyncio.get_running_loop()):
                log.info(
                    "worker started",
                    extra={
                        "queues": ",".join(self._config.queues),
                        "handlers": len(self._registry),
                        "pid": os.getpid(),
                    },
                )
                report = await bridge.run(burst=self._burst)
            return _exit_code(report), bridge.is_wedged

    @contextmanager
    def _handled_signals(self, bridge: QBridge, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        # signal.signal, not loop.add_signal_handler: it still runs when the loop is blocked.
        def on_signal(number: int, frame: FrameType | None) -> None:
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


def _leave(code: ExitCode) -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
