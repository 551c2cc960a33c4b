"""What the engine tells the outside: metrics, tracing and logs listen to this.

Events are made only while somebody listens, on the worker's main thread, after the fact. Who makes one imports it
there and then, so that a worker without listeners starts without this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Event",
    "LeaseLost",
    "LoopBlocked",
    "LoopFreed",
    "LoopReplaced",
    "SourceLost",
    "SourceReady",
    "SourceStalled",
    "TaskFinished",
    "TimeoutIgnored",
    "WorkerDrained",
]

TaskOutcome = Literal["done", "retried", "released", "dead_lettered", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFinished:
    """One delivery came to its end in this worker.

    Attributes:
        queue: The queue's name.
        task: The handler's name; "" if the message could not be decoded.
        message_id: `TaskMessage.id`, or the broker's id if it could not be decoded.
        attempt: Which attempt it was, from 1.
        outcome: How it ended.
        reason: The reason code of a dead letter, else "".
        waited: Seconds from claim to start; None if it never started.
        duration: Seconds from start to end; None if it never started.
        loop_thread: The loop thread's name; "" if it never reached one.
        error: The error's text, "" if there was none.
    """

    queue: str
    task: str
    message_id: str
    attempt: int
    outcome: TaskOutcome
    reason: str = ""
    waited: float | None = None
    duration: float | None = None
    loop_thread: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost:
    """A delivery's lease was lost while its handler ran here; the handler is cancelled, its settlement suppressed."""

    queue: str
    task: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopBlocked:
    """A loop gives no sign of life: a handler blocks it. Told once for each block.

    Attributes:
        loop_thread: The loop thread's name.
        queue: The queue whose message the handler has; "" if it isn't known which one blocks.
        task: The handler's name, or "".
        message_id: The message's id, or "".
        seconds: For how long it has been blocked.
    """

    loop_thread: str
    queue: str
    task: str
    message_id: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopFreed:
    """A loop that was told to be blocked turns again, after `seconds`."""

    loop_thread: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopReplaced:
    """A loop thread was given up that had been blocked for too long; what blocked it has failed.

    Attributes:
        loop_thread: The loop thread's name.
        successor: The name of the one that has taken over; "" if there is none, as the worker drains.
        seconds: For how long it had been blocked.
    """

    loop_thread: str
    successor: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLost:
    """A queue's broker can't be reached; the worker tries again after `delay` seconds, without limit."""

    queue: str
    error: str
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReady:
    """A queue's source is open; `outage` is the seconds it was lost, 0 at the first opening."""

    queue: str
    outage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStalled:
    """A connection brought nothing for `idle` seconds though `ready` messages were ready; it is made anew."""

    queue: str
    ready: int
    idle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutIgnored:
    """A handler ran over its timeout and ignored being cancelled, for `ran` seconds in all: its attempt has failed.

    It runs on and its slot stays occupied; how it ends is not settled any more.
    """

    queue: str
    task: str
    message_id: str
    ran: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDrained:
    """The worker has stopped: what became of the deliveries it held when the drain began."""

    finished: int
    released: int
    abandoned: int


#: What a listener of an `EventHub` gets: one of these.
Event = (
    TaskFinished
    | LeaseLost
    | LoopBlocked
    | LoopFreed
    | LoopReplaced
    | SourceLost
    | SourceReady
    | SourceStalled
    | TimeoutIgnored
    | WorkerDrained
)
