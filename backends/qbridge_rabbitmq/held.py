"""Held: one delivery between the broker and its settlement. Imports the client library."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pika import BasicProperties

from qbridge_rabbitmq.papers import Papers

__all__ = ["Held", "Stage"]

#: Bytes of a content header before the properties themselves.
_BEFORE = 12

#: In the first byte of the flags behind them: there is a table of headers.
_HEADERS = BasicProperties.FLAG_HEADERS >> 8


class Stage(Enum):
    """Where a delivery is between the broker and its settlement."""

    WAITING = "waiting"  # in the buffer
    OUT = "out"  # with the core
    LEAVING = "leaving"  # a copy of it is on its way


class Held:
    """One delivery that isn't settled.

    Args:
        tag: The broker's number for it, on its channel.
        consumer: The consumer that it was sent to.
        is_redelivered: Whether it was delivered before.
        body: The message's bytes.
        header: Its content header as it came; or, in place of it,
        properties: what that says.

    Attributes:
        papers: What the properties say to us; set by whoever takes it.
    """

    __slots__ = ("_properties", "body", "consumer", "header", "is_redelivered", "papers", "stage", "tag")

    papers: Papers

    def __init__(
        self,
        tag: int,
        consumer: bytes,
        *,
        is_redelivered: bool,
        body: bytes,
        header: bytes = b"",
        properties: Any = None,
    ) -> None:
        self.tag = tag
        self.consumer = consumer
        self.is_redelivered = is_redelivered
        self.body = body
        self.header = header
        self.stage = Stage.WAITING
        self._properties = properties

    @property
    def has_headers(self) -> bool:
        """Whether its header has a table of headers."""
        if self._properties is None:
            return bool(self.header[_BEFORE] & _HEADERS)
        return bool(self._properties.headers)

    @property
    def properties(self) -> Any:
        """What its header says, read when it is first asked for: of most deliveries the papers are enough."""
        if self._properties is None:
            self._properties = BasicProperties().decode(self.header, _BEFORE)
        return self._properties
