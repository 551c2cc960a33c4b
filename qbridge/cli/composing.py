"""From JSON to a task message that the worker will take."""

from __future__ import annotations

import re
from typing import Any

import pydantic_core
from pydantic import ValidationError

from qbridge.codec import Codec, RawCodec
from qbridge.errors import MessageTooLargeError, UndecodableMessageError
from qbridge.message import TaskMessage
from qbridge.registry import Handler
from qbridge.source import Delivery

__all__ = ["Composer"]

_LONGEST_SHOWN = 40

#: What somebody wrote who forgot the quotes of a JSON text.
_PLAIN_TEXT = re.compile(r"[A-Za-z][\w ,:/@-]*")


class Composer:
    """Makes the messages of one task for one queue.

    Args:
        task: The handler's name.
        codec: The queue's codec.
        max_message_size: Bytes that no message of the queue may exceed.
        handler: Checks the arguments; None leaves that to the worker.
    """

    def __init__(self, task: str, *, codec: Codec, max_message_size: int, handler: Handler | None) -> None:
        self._task = task
        self._codec = codec
        self._max_message_size = max_message_size
        self._handler = handler

    def message(self, json: bytes | None) -> TaskMessage:
        """Return a message with the arguments that JSON says; None stands for no arguments.

        Raises:
            UndecodableMessageError: It is not JSON, or the queue's codec can't carry it.
            MessageTooLargeError: It is over the queue's limit.
            InvalidArgumentsError: The handler doesn't take these arguments.
        """
        is_raw = isinstance(self._codec, RawCodec)
        args, kwargs = _arguments(json, is_raw=is_raw)
        try:
            message = TaskMessage(task=self._task, args=args, kwargs=kwargs)
        except ValidationError:  # JSON has the right types, so it can only be the name
            raise UndecodableMessageError(
                f"{self._task!r} is not a task name: use 1 to 128 of A-Z, a-z, 0-9, '_', '.', ':' and '-'"
            ) from None
        body = self._codec.encode(message)
        if len(body) > self._max_message_size:
            raise MessageTooLargeError(len(body), self._max_message_size)
        if self._handler is not None:
            # What a raw payload becomes is seen only when it is read again.
            arriving = message
            if is_raw:
                arriving = self._codec.decode(Delivery(body=body, receipt=None, message_id=message.id))
            self._handler.bind(arriving, None)
        return message


def _arguments(json: bytes | None, *, is_raw: bool) -> tuple[list[Any], dict[str, Any]]:
    if json is None:
        return [], {}
    try:
        value = pydantic_core.from_json(json, allow_inf_nan=False)
    except ValueError as exc:
        shown = json[:_LONGEST_SHOWN].decode(errors="replace")
        if len(json) > _LONGEST_SHOWN:
            shown += "..."
        quotes = f" (a text needs quotes of its own: '\"{shown}\"')" if _PLAIN_TEXT.fullmatch(shown) else ""
        raise UndecodableMessageError(f"{shown!r} is not JSON: {exc}{quotes}") from None
    if is_raw:
        return [value], {}
    if isinstance(value, dict):
        return [], value
    return (value if isinstance(value, list) else [value]), {}
