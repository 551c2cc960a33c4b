"""The exception tree: everything qbridge raises on purpose.

::

    Exception
    ├── QBridgeError                    a fault; catch this to catch all of ours
    │   ├── ConfigError                 the YAML, an option or a flag is wrong; nothing was started
    │   │   └── BackendNotFoundError    no installed package provides that backend, or its client is missing
    │   ├── RegistryError               a handler can't be registered: a name twice, a signature that can't be called
    │   ├── UnknownTaskError            no handler of that name; the nearest known name is in the message
    │   ├── UnknownQueueError           no queue of that name in this program or YAML file
    │   ├── MessageError                a message that can't become a task
    │   │   ├── UndecodableMessageError     the bytes are not what the queue's codec reads
    │   │   ├── UnsignedMessageError        it has no signature, or not one that holds
    │   │   ├── InvalidArgumentsError       the arguments don't fit the handler's signature
    │   │   └── MessageTooLargeError        over the queue's max_message_size
    │   ├── SourceError                 what a backend raises across the contract, and nothing else
    │   │   ├── SourceUnavailable       the broker can't be reached or failed; trying again may help
    │   │   ├── SourceMisconfigured     trying again can't help; a person must act
    │   │   ├── SourceFull              the broker takes no more messages for the moment (memory, disk, length limit)
    │   │   └── SourceClosed            the source was used before open() or after close()
    │   └── BridgeStateError            QBridge or a loop thread used out of order (run twice, send before open)
    └── Signal                          not a fault: a handler says what is to become of its message
        ├── Retry                       try again later; counts as an attempt
        └── Reject                      never try again: dead-letter it
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
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
    "nearest_name_hint",
]


class QBridgeError(Exception):
    """Base of every fault that qbridge raises."""


class ConfigError(QBridgeError):
    """The configuration is wrong; nothing was started.

    Args:
        problems: One line for each problem: place, key, what was given, what is known, what to do.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BackendNotFoundError(ConfigError):
    """No installed package provides the backend, or its client library is missing.

    Args:
        name: The backend's name as it was given.
        message: What failed and what to install.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class RegistryError(QBridgeError):
    """A handler can't be registered as it was written."""


class UnknownTaskError(QBridgeError):
    """No handler is registered under the task's name.

    Args:
        task: The name asked for.
        known: The names that are registered.
    """

    def __init__(self, task: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"no handler is registered for task {task!r} "
            f"(known: {', '.join(names) or 'none'}){nearest_name_hint(task, names)}"
        )
        self.task = task


class UnknownQueueError(QBridgeError):
    """No queue of that name is configured.

    Args:
        queue: The name asked for.
        known: The names that are configured.
    """

    def __init__(self, queue: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"no queue is named {queue!r} (known: {', '.join(names) or 'none'}){nearest_name_hint(queue, names)}"
        )
        self.queue = queue


class MessageError(QBridgeError):
    """A message that can't become a task."""


class UndecodableMessageError(MessageError):
    """The bytes are not what the queue's codec reads."""


class UnsignedMessageError(MessageError):
    """The message has no signature, or not one that holds; the text says which, and shows no key."""


class InvalidArgumentsError(MessageError):
    """The arguments don't fit the handler's signature.

    Args:
        task: The handler's name.
        problems: One line for each argument that doesn't fit; values are not repeated, as they may be secret.
    """

    def __init__(self, task: str, problems: Iterable[str]) -> None:
        self.task = task
        self.problems = tuple(problems)
        super().__init__(f"arguments of task {task!r} don't fit: {'; '.join(self.problems)}")


class MessageTooLargeError(MessageError):
    """A message is over the queue's size limit.

    Args:
        size: Bytes that the message has.
        limit: Bytes that the queue takes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"message has {size} bytes, over the limit of {limit} (raise max_message_size of the queue)")
        self.size = size
        self.limit = limit


class SourceError(QBridgeError):
    """Base of what a backend raises across the contract."""


class SourceUnavailable(SourceError):  # noqa: N818  # the contract's word; it names a state of the broker
    """The broker can't be reached or failed; trying again may help."""


class SourceMisconfigured(SourceError):  # noqa: N818  # the contract's word
    """The broker refuses what was configured; trying again can't help."""


class SourceFull(SourceError):  # noqa: N818  # the contract's word
    """The broker takes no more messages for the moment; the message was not accepted."""


class SourceClosed(SourceError):  # noqa: N818  # the contract's word
    """The source was used before `open()` or after `close()`."""


class BridgeStateError(QBridgeError):
    """An object was used out of order: run twice, sent through before it was opened."""


class Signal(Exception):  # noqa: N818  # control flow, not a fault
    """Base of what a handler raises to say what is to become of its message."""


class Retry(Signal):
    """Raised by a handler: try this message again later. Counts as an attempt.

    Args:
        reason: Kept in the message's error history.
        delay: Seconds until the next attempt; None takes the handler's retry policy.
    """

    # For subclasses that don't call our __init__.
    reason: str = ""
    delay: float | None = None

    def __init__(self, reason: str = "", *, delay: float | None = None) -> None:
        if delay is not None and not 0 <= delay < float("inf"):
            raise ValueError(f"delay must be 0 or more seconds, not {delay!r}")
        super().__init__(reason)
        self.reason = reason
        self.delay = delay


class Reject(Signal):
    """Raised by a handler: never try this message again; it becomes a dead letter `rejected`.

    Args:
        reason: Kept with the dead letter.
    """

    # For subclasses that don't call our __init__.
    reason: str = ""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def nearest_name_hint(given: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or "" when none is near."""
    from difflib import get_close_matches  # what makes no mistake has no use for it

    matches = get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""
