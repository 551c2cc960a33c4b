"""qbridge takes tasks from any queue and runs them as coroutines on event-loop threads.

These are the public names; everything else may change between minor releases. A name is loaded when it is first used,
so that a program waits for what it uses alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from qbridge.event_hub import EventHub
    from qbridge.events import (
        Event,
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

#: In which module of this package each of the names is.
_MODULE_OF = {
    name: module
    for module, names in {
        "backend": ("Backend", "BackendOptions"),
        "blocking": ("BlockingSource",),
        "bridge": ("QBridge",),
        "config": ("Config", "build_config", "load_config"),
        "counts": ("QueueCounts",),
        "dispatcher": ("DrainReport",),
        "errors": (
            "BackendNotFoundError",
            "BridgeStateError",
            "ConfigError",
            "InvalidArgumentsError",
            "MessageError",
            "MessageTooLargeError",
            "QBridgeError",
            "RegistryError",
            "Reject",
            "Retry",
            "Signal",
            "SourceClosed",
            "SourceError",
            "SourceFull",
            "SourceMisconfigured",
            "SourceUnavailable",
            "UndecodableMessageError",
            "UnknownQueueError",
            "UnknownTaskError",
            "UnsignedMessageError",
        ),
        "event_hub": ("EventHub",),
        "events": (
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
        ),
        "loading": ("load_handlers",),
        "message": ("TaskMessage",),
        "registry": ("Handler", "HandlerRegistry", "TaskContext"),
        "retry": ("RetryPolicy",),
        "service": ("ExitCode", "Service"),
        "snapshot": ("LoopGroupSnapshot", "QueueSnapshot", "WorkerSnapshot"),
        "source": (
            "MAX_ERROR_LENGTH",
            "MAX_ERRORS_KEPT",
            "Action",
            "Capabilities",
            "DeadLetter",
            "DeadLetterReason",
            "Delivery",
            "Outgoing",
            "QueueSource",
            "QueueStats",
            "Settled",
            "Settlement",
        ),
        "units": ("Duration", "Size"),
        "watchdog": ("BlockedLoop", "LoopHealth"),
    }.items()
    for name in names
}

if not TYPE_CHECKING:  # to a type checker this would say that any name is here

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
