"""Dumps: the stacks of all threads, on standard error, while C code holds the interpreter.

Such code stops every Python thread, so no Python code can tell of it. A timer of the system that counts the process's
processor time needs no interpreter: the loop winds it up again and again, and when that ceases while the process works
on, faulthandler writes the stacks from the timer's signal.

Not a timer of clock time: it would also run down in a process that was stopped (SIGSTOP, a suspended machine) or
starved. Then threads run Python code while their stacks are read, which ended 1 of 18 workers with a segmentation fault
after 7 seconds of SIGSTOP (CPython 3.11, November 2026). Code that holds the interpreter and sleeps is told of when it
is over, like all that holds up the main loop, but its stack is not dumped.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, process_time
from typing import TextIO

__all__ = ["stack_dumps"]

#: Seconds between two windings: threads that work beside the interpreter may use all processors meanwhile.
_INTERVAL = 0.25

#: Seconds after a dump in which there is no further one: a handler that does it again and again must not fill the log.
_QUIET = 60.0

#: By how much the most processors that were seen at work count for less at each winding.
_FADING = 0.95


@contextmanager
def stack_dumps(after: float, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Dump all stacks once whenever C code has held up `loop` for `after` seconds of work.

    For the main job of a process only: there is one such timer, and this takes it with its signal, SIGPROF. Where
    somebody else has taken that, where there is none, or where standard error is no file nothing is dumped.

    Args:
        after: Seconds, more than 0.
        loop: The running loop.
    """
    stream = sys.stderr
    try:
        stream.fileno()
        is_taken = signal.getsignal(signal.SIGPROF) is not signal.SIG_DFL
    except (AttributeError, OSError, ValueError):
        is_taken = True
    if is_taken:
        yield
        return
    dumper = _Dumper(after, loop, stream)
    dumper.start()
    try:
        yield
    finally:
        dumper.stop()


class _Dumper:
    """Winds the timer, again and again."""

    def __init__(self, after: float, loop: asyncio.AbstractEventLoop, stream: TextIO) -> None:
        self._after = after
        self._loop = loop
        self._stream = stream
        self._is_wound = False
        self._quiet_until = 0.0
        self._looked = (monotonic(), process_time())
        self._processors = 1.0  # the most that were at work lately
        self._turn: asyncio.TimerHandle | None = None

    def start(self) -> None:
        faulthandler.register(signal.SIGPROF, file=self._stream, all_threads=True, chain=False)
        self._wind()

    def stop(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        faulthandler.unregister(signal.SIGPROF)

    def _wind(self) -> None:
        now, worked = monotonic(), process_time()
        if now > self._looked[0]:
            at_work = (worked - self._looked[1]) / (now - self._looked[0])
            self._processors = max(1.0, at_work, self._processors * _FADING)
        self._looked = (now, worked)
        left, _ = signal.setitimer(signal.ITIMER_PROF, 0.0)
        if self._is_wound and not left:  # it has run down: there was a dump
            self._quiet_until = now + _QUIET
        self._is_wound = now >= self._quiet_until
        if self._is_wound:
            signal.setitimer(signal.ITIMER_PROF, (self._after + _INTERVAL) * self._processors)
        self._turn = self._loop.call_later(_INTERVAL, self._wind)
