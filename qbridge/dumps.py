"""Dumps: the stacks of all threads, on standard error, while the main loop is held up.

C code that holds the interpreter stops every Python thread, so no Python code can tell of it. A thread of faulthandler
does that needs no interpreter: the loop winds it up once a second, and it writes when that ceases.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TextIO

__all__ = ["stack_dumps"]

#: Seconds between two windings.
_INTERVAL = 1.0

#: Seconds after a dump in which there is no further one: a handler that does it again and again must not fill the log.
_QUIET = 60.0


@contextmanager
def stack_dumps(after: float, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Dump all stacks once whenever `loop` has been held up for `after` seconds, up to a second more.

    For the main job of a process only: faulthandler has one such timer, and this takes it. Where standard error is no
    file nothing is dumped.

    Args:
        after: Seconds, more than 0.
        loop: The running loop.
    """
    stream = sys.stderr
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        yield
        return
    dumper = _Dumper(after + _INTERVAL, loop, stream)
    dumper.wind()
    try:
        yield
    finally:
        dumper.stop()


class _Dumper:
    """Winds faulthandler's timer, again and again."""

    def __init__(self, limit: float, loop: asyncio.AbstractEventLoop, stream: TextIO) -> None:
        self._limit = limit
        self._loop = loop
        self._stream = stream
        self._wound_at: float | None = None
        self._quiet_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def wind(self) -> None:
        now = monotonic()
        if self._wound_at is not None and now - self._wound_at >= self._limit:  # it has run down: there was a dump
            self._quiet_until = now + _QUIET
        self._wound_at = None
        if now >= self._quiet_until:
            self._wound_at = now
            faulthandler.dump_traceback_later(self._limit, repeat=False, file=self._stream, exit=False)
        self._timer = self._loop.call_later(_INTERVAL, self.wind)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()
