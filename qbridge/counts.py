"""QueueCounts: what has happened to one queue in this worker, as numbers that only grow."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["QueueCounts"]


@dataclass(slots=True)
class QueueCounts:
    """What has happened to one queue in this worker. Written on the main thread, and read anywhere.

    Attributes:
        succeeded: Handlers that returned in time; their messages are acknowledged.
        failed: Attempts that failed: their messages are tried again, or were for the last time.
        reconnects: Openings of the source after a loss.
        stalls: How many of these losses were connections that brought nothing though messages were ready.
        leases_lost: Deliveries that became another worker's while their handlers ran; these were cancelled.
        overtimes: Messages that were let go because their handlers ignored their time limit.
        suppressed: Handlers that ended when their message was no longer theirs: nothing was settled.
        late: Settlements that came too late, as the broker had given the message up: it runs again.
        resumed: Deliveries that came back after a loss and were not run again, as they ran here or had ended here.
        slowed: How often the retry budget was spent, and the claims were slowed.
    """

    succeeded: int = 0
    failed: int = 0
    reconnects: int = 0
    stalls: int = 0
    leases_lost: int = 0
    overtimes: int = 0
    suppressed: int = 0
    late: int = 0
    resumed: int = 0
    slowed: int = 0
