"""qbridge takes tasks from any queue and runs them as coroutines on event-loop threads.

These are the public names; everything else may change between minor releases.
"""

from qbridge.backend import Backend, BackendOptions
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
)
from qbridge.message import TaskMessage
from qbridge.retry import RetryPolicy
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

__all__ = [
    "MAX_ERRORS_KEPT",
    "MAX_ERROR_LENGTH",
    "Action",
    "Backend",
    "BackendNotFoundError",
    "BackendOptions",
    "BridgeStateError",
    "Capabilities",
    "ConfigError",
    "DeadLetter",
    "DeadLetterReason",
    "Delivery",
    "Duration",
    "InvalidArgumentsError",
    "MessageError",
    "MessageTooLargeError",
    "Outgoing",
    "QBridgeError",
    "QueueSource",
    "QueueStats",
    "RegistryError",
    "Reject",
    "Retry",
    "RetryPolicy",
    "Settled",
    "Settlement",
    "Signal",
    "Size",
    "SourceClosed",
    "SourceError",
    "SourceFull",
    "SourceMisconfigured",
    "SourceUnavailable",
    "TaskMessage",
    "UndecodableMessageError",
    "UnknownQueueError",
    "UnknownTaskError",
]

__version__ = "0.1.0"
