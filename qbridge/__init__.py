"""qbridge takes tasks from any queue and runs them as coroutines on event-loop threads.

These are the public names; everything else may change between minor releases.
"""

from qbridge.backend import Backend, BackendOptions
from qbridge.blocking import BlockingSource
from qbridge.bridge import QBridge
from qbridge.config import Config, build_config, load_config
from qbridge.counts import QueueCounts
from qbridge.dispatcher import DrainReport
from qbridge.errors import (
    BackendNotFoundError,
    BridgeStateError,
    ConfigError,
    InvalidArgumentsError,
    MessageError,
    MessageTooLargeError,
    QBridgeError,
    RegistryError,
    Reject,
    Retry,
    Signal,
    SourceClosed,
    SourceError,
    SourceFull,
    SourceMisconfigured,
    SourceUnavailable,
    UndecodableMessageError,
    UnknownQueueError,
    UnknownTaskError,
    UnsignedMessageError,
)
from qbridge.events import (
    Event,
    EventHub,
    LeaseLost,
    LoopBlocked,
    LoopFreed,
    LoopReplaced,
    SourceLost,
    SourceReady,
    SourceStalled,
    TaskFinished,
    TimeoutIgnored,
    WorkerDrained,
)
from qbridge.loading import load_handlers
from qbridge.message import TaskMessage
from qbridge.registry import Handler, HandlerRegistry, TaskContext
from qbridge.retry import RetryPolicy
from qbridge.service import ExitCode, Service
from qbridge.snapshot import LoopGroupSnapshot, QueueSnapshot, WorkerSnapshot
from qbridge.source import (
    MAX_ERROR_LENGTH,
    MAX_ERRORS_KEPT,
    Action,
    Capabilities,
    DeadLetter,
    DeadLetterReason,
    Delivery,
    Outgoing,
    QueueSource,
    QueueStats,
    Settled,
    Settlement,
)
from qbridge.units import Duration, Size
from qbridge.watchdog import BlockedLoop, LoopHealth

__all__ = [
    "MAX_ERRORS_KEPT",
    "MAX_ERROR_LENGTH",
    "Action",
    "Backend",
    "BackendNotFoundError",
    "BackendOptions",
    "BlockedLoop",
    "BlockingSource",
    "BridgeStateError",
    "Capabilities",
    "Config",
    "ConfigError",
    "DeadLetter",
    "DeadLetterReason",
    "Delivery",
    "DrainReport",
    "Duration",
    "Event",
    "EventHub",
    "ExitCode",
    "Handler",
    "HandlerRegistry",
    "InvalidArgumentsError",
    "LeaseLost",
    "LoopBlocked",
    "LoopFreed",
    "LoopGroupSnapshot",
    "LoopHealth",
    "LoopReplaced",
    "MessageError",
    "MessageTooLargeError",
    "Outgoing",
    "QBridge",
    "QBridgeError",
    "QueueCounts",
    "QueueSnapshot",
    "QueueSource",
    "QueueStats",
    "RegistryError",
    "Reject",
    "Retry",
    "RetryPolicy",
    "Service",
    "Settled",
    "Settlement",
    "Signal",
    "Size",
    "SourceClosed",
    "SourceError",
    "SourceFull",
    "SourceLost",
    "SourceMisconfigured",
    "SourceReady",
    "SourceStalled",
    "SourceUnavailable",
    "TaskContext",
    "TaskFinished",
    "TaskMessage",
    "TimeoutIgnored",
    "UndecodableMessageError",
    "UnknownQueueError",
    "UnknownTaskError",
    "UnsignedMessageError",
    "WorkerDrained",
    "WorkerSnapshot",
    "build_config",
    "load_config",
    "load_handlers",
]

__version__ = "0.1.0"
