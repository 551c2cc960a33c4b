"""Silences: which delay queues take nothing, though nothing is wrong with the broker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from time import monotonic

__all__ = ["Silences"]

log = logging.getLogger(__name__)

#: How often in a row a queue may confirm nothing, or refuse: a broker that hangs and a cluster that elects a leader do
#: so once. A queue that does it again, over a connection that was made since, is broken.
_ALLOWED = 1

#: Seconds after which a broken queue is tried again: somebody may have deleted it, so that it was made anew.
_PATIENCE = 600.0


class Silences:
    """What a source remembers of delay queues that are broken, over all its connections. Belongs to the source's loop.

    A quorum queue whose broker was killed in the queue's first second may come back so that it confirms nothing, or
    refuses all that comes, for good (RabbitMQ 3.10).

    Args:
        prefix: What the names of the delay queues begin with. Others may be full, and have none to take their place.
        clock: Tells seconds.
    """

    def __init__(self, prefix: str, *, clock: Callable[[], float] = monotonic) -> None:
        self._prefix = prefix
        self._clock = clock
        self._known: dict[str, tuple[int, float]] = {}  # how often in a row, and when for the last time

    def note(self, queues: Iterable[str]) -> None:
        """Take note of queues that have not taken what they were sent."""
        for queue in queues:
            if queue.startswith(self._prefix):
                count = self._known.get(queue, (0, 0.0))[0] + 1
                self._known[queue] = (count, self._clock())
                if count == _ALLOWED + 1:
                    log.error(
                        "a delay queue takes nothing, a longer one is used: delete it, it is made anew",
                        extra={"rabbitmq_queue": queue},
                    )

    def end(self, queues: Iterable[str]) -> None:
        """Take note of queues that have taken what they were sent."""
        for queue in self._known.keys() & set(queues):
            del self._known[queue]

    def __contains__(self, queue: str) -> bool:
        """Whether nothing is to be expected of a queue."""
        count, when = self._known.get(queue, (0, 0.0))
        return count > _ALLOWED and self._clock() < when + _PATIENCE

    def __bool__(self) -> bool:
        """Whether there is anything to remember."""
        return bool(self._known)
