"""The record of what ran: a file in shared memory that handlers write, in whichever process, and the harness reads.

Handlers of every system call the same functions, so this imports nothing but the standard library. The file's name is
in the environment variable `BENCH_RECORD`; a process takes a slot in it at its first call. A call costs less than a
microsecond and no system call. Threads of one process share its slot without a lock: what could race is the first or
the last moment, by less than a microsecond.

    offset 0        header: the capacity in tasks, the slots taken
    offset 4096     64 slots of 64 bytes: owner, first moment, last moment
    then            one byte per task: how often it ran to its end
    then            one byte per task: how often it was attempted, for handlers that fail at first
    then            eight bytes per task: nanoseconds from its send to its start, for handlers that measure it

Moments are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path
from time import monotonic_ns

__all__ = ["Record", "attempt", "latency", "ran", "started"]

_HEADER = 4096
_SLOTS = 64
_SLOT_BYTES = 64
_SLOT_WORDS = _SLOT_BYTES // 8
_OWNER, _FIRST, _LAST = 0, 1, 2
#: What a byte holds; a task that runs for ever is not told apart from one that ran so often.
_MOST = 255


class Record:
    """The file, mapped; one object per process.

    Args:
        path: The file.
        tasks: How many tasks it has room for, numbered from 0; None takes a file that exists as it is.
    """

    def __init__(self, path: str | Path, *, tasks: int | None = None) -> None:
        mode = os.O_RDWR if tasks is None else os.O_RDWR | os.O_CREAT | os.O_TRUNC
        self._file = os.open(path, mode, 0o600)
        if tasks is not None:
            room = -(-tasks // 8) * 8
            os.ftruncate(self._file, _HEADER + _SLOTS * _SLOT_BYTES + 10 * room)
        self._map = mmap.mmap(self._file, 0)
        self._view = memoryview(self._map)
        self._header = self._view[:16].cast("Q")
        if tasks is not None:
            self._header[0] = room
        first = _HEADER + _SLOTS * _SLOT_BYTES
        self.capacity = self._header[0]
        self._slots = self._view[_HEADER:first].cast("Q")
        self._runs_at = first
        self.runs = self._view[first : first + self.capacity]
        self.attempts = self._view[first + self.capacity : first + 2 * self.capacity]
        self.latencies = self._view[first + 2 * self.capacity : first + 10 * self.capacity].cast("Q")
        self._slot = self._slots[:_SLOT_WORDS]

    def take_slot(self, owner: int) -> None:
        """Take the slot of this owner, a process number; a new one if it has none.

        Raises:
            RuntimeError: All slots are taken.
        """
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            taken = self._header[1]
            for index in range(taken):
                if self._slots[index * _SLOT_WORDS + _OWNER] == owner:
                    break
            else:
                index = taken
                if index == _SLOTS:
                    raise RuntimeError(f"more than {_SLOTS} processes write one record")
                self._slots[index * _SLOT_WORDS + _OWNER] = owner
                self._header[1] = index + 1
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._slot = self._slots[index * _SLOT_WORDS : (index + 1) * _SLOT_WORDS]

    def note(self, moment: int) -> None:
        """Widen the span of this process to this moment."""
        if not self._slot[_FIRST]:
            self._slot[_FIRST] = moment
        self._slot[_LAST] = moment

    def distinct(self, first: int, last: int) -> int:
        """Return how many tasks of this range ran at least once."""
        return last - first - self._map[self._runs_at + first : self._runs_at + last].count(0)

    def repeated(self) -> int:
        """Return how many runs were further runs of a task that had run already."""
        return sum(count - 1 for count in self.runs if count > 1)

    def span(self) -> tuple[int, int]:
        """Return the first and the last moment over all processes; (0, 0) before anything was noted."""
        words = range(0, self._header[1] * _SLOT_WORDS, _SLOT_WORDS)
        slots = [(self._slots[word + _FIRST], self._slots[word + _LAST]) for word in words]
        noted = [slot for slot in slots if slot[0]]
        if not noted:
            return (0, 0)
        return min(first for first, _ in noted), max(last for _, last in noted)

    def processes(self) -> int:
        """Return how many processes have written."""
        return self._header[1]

    def close(self) -> None:
        """Unmap the file; may be called twice."""
        for view in (self._slot, self._slots, self.runs, self.attempts, self.latencies, self._header, self._view):
            view.release()
        self._map.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


_record: Record | None = None


def started() -> None:
    """Note that a handler begins, where the time from the first start to the last end is measured."""
    (_record or _open()).note(monotonic_ns())


def ran(number: int) -> None:
    """Note that this task ran to its end."""
    record = _record or _open()
    record.note(monotonic_ns())
    _count(record.runs, number)


def attempt(number: int) -> int:
    """Count an attempt of this task, over all processes; return which one it is, from 1 to 255."""
    record = _record or _open()
    _count(record.attempts, number)
    return record.attempts[number]


def latency(number: int, sent: int) -> None:
    """Note how long ago this task was sent, at a moment of CLOCK_MONOTONIC in nanoseconds, and that it ran."""
    moment = monotonic_ns()
    record = _record or _open()
    record.note(moment)
    record.latencies[number] = moment - sent
    _count(record.runs, number)


def _count(counts: memoryview, number: int) -> None:
    count = counts[number]
    if count < _MOST:
        counts[number] = count + 1


def _open() -> Record:
    global _record  # noqa: PLW0603  # one record per process, as one environment variable names it
    record = Record(os.environ["BENCH_RECORD"])
    # A system that forks a process for each task would run out of slots: its tasks share their parent's.
    record.take_slot(os.getppid() if os.environ.get("BENCH_RECORD_OWNER") == "parent" else os.getpid())
    _record = record
    return record


def _forget() -> None:
    global _record  # noqa: PLW0603
    _record = None


# A child that inherited the mapping would write to the slot of its parent.
os.register_at_fork(after_in_child=_forget)
