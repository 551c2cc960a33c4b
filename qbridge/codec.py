"""Bytes to TaskMessage and back: the JSON envelope, and raw payloads written by anybody.

A codec belongs to a queue. Decoding happens in the worker's main thread, for each message, so it does just one thing:
the envelope. Arguments are validated later, in the loop thread that runs the handler.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import islice
from math import isfinite
from typing import Any

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from qbridge.errors import UndecodableMessageError, UnsignedMessageError
from qbridge.message import NAME_PATTERN, MessageFields, TaskMessage, fields_of
from qbridge.signing import SIGNATURE_KEY, Signer
from qbridge.source import Delivery

__all__ = ["ENVELOPE_VERSION", "Codec", "JsonCodec", "RawCodec", "RawPayload", "read_json"]

#: The version of the envelope that `JsonCodec` writes, under the key `v`.
ENVELOPE_VERSION = 1

#: Digits of an integer, and levels of arrays and objects, that can be read; more can be written.
_LONGEST_NUMBER, _DEEPEST = 4300, 200

#: Of a thousand things that are wrong with an envelope so many are told.
_MOST_PROBLEMS = 10

#: Bytes that are too few for levels too deep, of which each takes two brackets.
_SHORT = 2 * _DEEPEST

#: How what `JsonCodec` writes begins: with the version, and then with the message's own fields.
_VERSION = b'{"v":%d,' % ENVELOPE_VERSION
_VERSION_ENDS, _OWN_START = len(_VERSION), _VERSION + b'"id":'

_to_json = pydantic_core.to_json

_read_message = TypeAdapter(TaskMessage).validator.validate_json
_FIELDS = len(TaskMessage.model_fields)

_TOO_LARGE = "a number is beyond 1.8e308, where floats end"


class RawPayload(bytes):
    """The whole body of a foreign message, on its way to the first parameter of a handler.

    The handler's annotation decides what it becomes: see `qbridge.registry.Handler`.
    """

    __slots__ = ()


class Codec(ABC):
    """Turns a queue's bytes into task messages and back. Stateless; called from any thread.

    Attributes:
        carries_headers: Whether the bytes hold `TaskMessage.headers`; else they travel beside, where a broker can.
    """

    carries_headers: bool

    @abstractmethod
    def decode(self, delivery: Delivery) -> TaskMessage:
        """Return the task message in a delivery.

        Raises:
            UndecodableMessageError: The bytes are not what this codec reads. The text repeats none of them.
            UnsignedMessageError: They have no signature that holds, where this codec wants one.
        """

    @abstractmethod
    def write(self, fields: MessageFields) -> bytes:
        """Return the bytes of the task message with these values.

        Raises:
            UndecodableMessageError: The message holds what this codec can't write.
        """

    def write_all(self, messages: Sequence[MessageFields]) -> list[bytes]:
        """Return the bytes of each message, in order; the errors are those of `write`."""
        return [self.write(fields) for fields in messages]

    def encode(self, message: TaskMessage) -> bytes:
        """Return the bytes of a task message; the errors are those of `write`."""
        return self.write(fields_of(message))


class JsonCodec(Codec):
    """The envelope: `{"v": 1, "id": …, "task": …, "args": […], "kwargs": {…}, "headers": {…}, "enqueued_at": …}`.

    `v` and `task` must be there, everything else may be left out; an unknown key, NaN and Infinity are refused. A
    message without `id` takes the broker's. Of a key that is there twice the last one counts.

    Args:
        signer: Signs what is written, and verifies what is read before it is read. Without one a signature, the last
            key, is passed over, so that a service may sign before all others have keys.
    """

    carries_headers = True

    def __init__(self, signer: Signer | None = None) -> None:
        self.signer = signer

    def decode(self, delivery: Delivery) -> TaskMessage:
        """Return the task message in a delivery; see `Codec.decode`."""
        signed = None if self.signer is None else self.signer.verify(delivery.body)
        body = delivery.body if signed is None else signed
        if body.startswith(_OWN_START) and (message := _read_own(body)) is not None:
            if signed is not None and self.signer is not None:
                self.signer.check_age(message.enqueued_at)
            return message
        try:
            # from_json refuses NaN inside free-form arguments, which a model's allow_inf_nan doesn't reach.
            envelope: Any = pydantic_core.from_json(body, allow_inf_nan=False)
        except ValueError as exc:
            raise UndecodableMessageError(f"body is not JSON: {exc}") from None
        if not isinstance(envelope, dict):
            raise UndecodableMessageError(f"envelope is a JSON {_json_type(envelope)}, not an object")
        version = envelope.pop("v", None)
        if version != ENVELOPE_VERSION or isinstance(version, bool):
            raise UndecodableMessageError(
                f"envelope has no version v: {ENVELOPE_VERSION}"
                if version is None
                else f"envelope version is {str(version)[:40]!r}, this worker reads {ENVELOPE_VERSION}"
            )
        if envelope.pop(SIGNATURE_KEY, None) is not None and self.signer is not None:
            raise UnsignedMessageError("message has a signature, but not at its end, where it would be looked at")
        envelope.setdefault("id", delivery.message_id)
        says_when = envelope.setdefault("enqueued_at", None) is not None
        if not says_when:
            envelope["enqueued_at"] = delivery.enqueued_at
        try:
            message = TaskMessage.model_validate(envelope)
        except ValidationError as exc:
            raise UndecodableMessageError(f"envelope doesn't fit: {_problems(exc)}") from None
        if signed is not None and self.signer is not None:
            self.signer.check_age(message.enqueued_at if says_when else None)
        if _holds_infinity(message):
            raise UndecodableMessageError(f"envelope doesn't fit: {_TOO_LARGE}")
        return message

    def write(self, fields: MessageFields) -> bytes:
        """Return the envelope's bytes; see `Codec.write`."""
        if self.signer is not None:
            self._check_time(fields)
        try:
            body = _VERSION + _to_json(fields, inf_nan_mode="constants")[1:]
        except (ValueError, TypeError, RecursionError) as exc:
            raise _not_json(fields, exc) from exc
        # Looking for single letters first takes most bodies half the time (0.3 µs, November 2026, CPython 3.11).
        if len(body) >= _SHORT or b"N" in body or b"I" in body:
            _check_readable(body, fields["task"])
        return body if self.signer is None else self.signer.sign(body)

    def write_all(self, messages: Sequence[MessageFields]) -> list[bytes]:
        """Return the envelopes of messages; see `Codec.write_all`."""
        if self.signer is not None:
            return [self.write(fields) for fields in messages]
        # The letters are looked for in all of them at once.
        bodies: list[bytes] = []
        append = bodies.append
        try:
            for fields in messages:
                append(_VERSION + _to_json(fields, inf_nan_mode="constants")[1:])
        except (ValueError, TypeError, RecursionError) as exc:
            raise _not_json(fields, exc) from exc
        if max(map(len, bodies), default=0) >= _SHORT or b"N" in (whole := b"".join(bodies)) or b"I" in whole:
            for body, fields in zip(bodies, messages, strict=True):
                _check_readable(body, fields["task"])
        return bodies

    def _check_time(self, fields: MessageFields) -> None:
        assert self.signer is not None
        if fields["enqueued_at"] is None and self.signer.max_age is not None:
            raise UndecodableMessageError(
                f"message {fields['id']!r} has no enqueued_at, without which nobody can tell whether it is over "
                "signing.max_age"
            )


class RawCodec(Codec):
    """Payloads written by anybody: the whole body is the first argument of one task.

    What the argument becomes follows the handler's annotation: bytes stay bytes; else JSON if the body is JSON; else
    text if it is UTF-8; else bytes.

    Args:
        task: The handler's name.

    Raises:
        ValueError: If `task` is no task name.
    """

    carries_headers = False

    def __init__(self, task: str) -> None:
        if re.fullmatch(NAME_PATTERN, task) is None:
            raise ValueError(f"{task!r} is not a task name ({NAME_PATTERN})")
        self.task = task

    def decode(self, delivery: Delivery) -> TaskMessage:
        """Return the one task with the body as its argument; never fails."""
        return TaskMessage.model_construct(
            id=delivery.message_id,
            task=self.task,
            args=[RawPayload(delivery.body)],
            kwargs={},
            headers=dict(delivery.headers),
            enqueued_at=delivery.enqueued_at,
        )

    def write(self, fields: MessageFields) -> bytes:
        """Return the one argument: bytes as they are, text too unless it reads as JSON, everything else as JSON."""
        task, args, kwargs = fields["task"], fields["args"], fields["kwargs"]
        if task != self.task:
            raise UndecodableMessageError(
                f"a raw queue carries only task {self.task!r}, not {task!r}: send it to another queue"
            )
        if len(args) != 1 or kwargs:
            raise UndecodableMessageError(
                f"a raw queue carries one positional argument, not {len(args)} positional and {len(kwargs)} named ones"
            )
        payload = args[0]
        if isinstance(payload, bytes):
            return bytes(payload)
        try:
            if isinstance(payload, str) and not _is_json(text := payload.encode()):
                return text
            body = _to_json(payload, inf_nan_mode="constants")
        except (ValueError, TypeError, RecursionError) as exc:
            raise UndecodableMessageError(f"the argument of task {task!r} is not JSON: {exc}") from exc
        _check_readable(body, task)
        return body


def read_json(text: bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: It is not JSON, or has NaN or Infinity, be it written as `1e999`.
    """
    value = pydantic_core.from_json(text, allow_inf_nan=False)
    if _has_infinity((value,)):
        raise ValueError(_TOO_LARGE)
    return value


def _read_own(body: bytes) -> TaskMessage | None:
    """Return the message in an envelope as `JsonCodec` writes it, or None if it has to be read with more care.

    One step from bytes to a validated message: 2.2 against 4.2 µs for JSON, then keys, then the model (measured
    November 2026, CPython 3.11). Whatever is unusual about an envelope, and all that is wrong with one, is left to the
    other way, which has the words for it.
    """
    try:
        message = _read_message(b"{" + body[_VERSION_ENDS:])
    except ValidationError:
        return None
    is_whole = len(message.__pydantic_fields_set__) == _FIELDS and message.enqueued_at is not None
    return message if is_whole and not _holds_infinity(message) else None


def _not_json(fields: MessageFields, exc: Exception) -> UndecodableMessageError:
    return UndecodableMessageError(f"arguments of task {fields['task']!r} are not JSON: {exc}")


def _holds_infinity(message: TaskMessage) -> bool:
    args, kwargs = message.args, message.kwargs
    return bool((args and _has_infinity(args)) or (kwargs and _has_infinity(kwargs.values())))


def _has_infinity(values: Iterable[Any]) -> bool:
    """Return whether a float is infinite, at any depth, or not a number: `1e999` becomes one without a word."""
    for value in values:
        kind = type(value)
        if kind is str:
            continue
        if kind is float:
            if not isfinite(value):
                return True
        elif kind is list:
            if _has_infinity(value):
                return True
        elif kind is dict and _has_infinity(value.values()):
            return True
    return False


def _problems(exc: ValidationError) -> str:
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{'.'.join(map(str, error['loc']))[:80]}: {error['msg']}" for error in islice(errors, _MOST_PROBLEMS)]
    if len(errors) > _MOST_PROBLEMS:
        shown.append(f"and {len(errors) - _MOST_PROBLEMS} more problems")
    return "; ".join(shown)


def _check_readable(body: bytes, task: str) -> None:
    """Refuse what was written but can't be read: NaN and Infinity, nesting over 200 deep, integers over 4300 digits.

    Reading takes half as long as writing, so it is tried only where there may be a reason.
    """
    has_constant = b"NaN" in body or b"Infinity" in body
    if not has_constant and len(body) <= _LONGEST_NUMBER and body.count(b"[") + body.count(b"{") < _DEEPEST:
        return
    try:
        pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as exc:
        why = "hold NaN or Infinity, which JSON can't" if has_constant else f"can't be read back from JSON: {exc}"
        raise UndecodableMessageError(f"arguments of task {task!r} {why}") from None


def _is_json(text: bytes) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "array"
