"""Lingering: handlers that run on though their messages are no longer theirs, and what must wait for their end."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from time import monotonic

from qbridge.execution import Job, failed

__all__ = ["Lingering", "overdue"]


class Lingering:
    """Jobs that were given up while they ran. Belongs to the main thread's loop.

    Their slots stay occupied until they end. If a message comes back here meanwhile, its next run waits, so that no
    two runs of one message meet in one process.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[object, str], Job] = {}
        self._waiting: dict[Job, Job] = {}

    def __len__(self) -> int:
        """How many run on."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many jobs wait for the end of an earlier run."""
        return len(self._waiting)

    def add(self, job: Job) -> None:
        """Note that a job was given up, and has not ended."""
        self._running[_name(job)] = job

    def hold_back(self, job: Job) -> bool:
        """Let a job wait if an earlier run of its message goes on here; return whether that is so."""
        earlier = self._running.get(_name(job))
        if earlier is None or earlier in self._waiting:
            return False
        self._waiting[earlier] = job
        return True

    def ended(self, job: Job) -> Job | None:
        """Note that a job has ended after all; return the one that has waited for it."""
        if self._running.get(_name(job)) is job:
            del self._running[_name(job)]
        return self._waiting.pop(job, None)

    def forget_thread(self, thread: object) -> Iterator[Job]:
        """Forget what runs on a loop thread of which nobody hears any more; yield the jobs that have waited for it."""
        for name, job in list(self._running.items()):
            if job.thread is thread:
                del self._running[name]
                if (waiting := self._waiting.pop(job, None)) is not None:
                    yield waiting

    def take_waiting(self, job: Job | None = None) -> Iterator[Job]:
        """Take back those that wait, or just this one if it does."""
        for earlier, waiting in list(self._waiting.items()):
            if job is None or waiting is job:
                del self._waiting[earlier]
                yield waiting


def overdue(job: Job, ran: float) -> Job:
    """Return a copy of a job that ignores its time limit, which has failed; its loop thread may still touch the job.

    Args:
        job: The job.
        ran: For how many seconds its handler has run.
    """
    ended = copy(job)
    ended.error = (
        f"TimeoutError: handler {job.handler.name!r} ran over its timeout of {job.handler.timeout:g} s, and ignored "
        f"being cancelled: it still runs after {ran:.0f} s"
    )
    ended.ended_at = monotonic()
    ended.settlement = failed(ended)
    return ended


def _name(job: Job) -> tuple[object, str]:
    return job.owner, job.delivery.message_id
