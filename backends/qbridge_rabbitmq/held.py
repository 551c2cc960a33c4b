"""Held: one delivery between the broker and its settlement."""

from __future__ import annotations

from enum import Enum
from typing import Any

from qbridge_rabbitmq.papers import Papers

__all__ = ["Held", "Stage"]


class Stage(Enum):
    """Where a delivery is between the broker and its settlement."""

    WAITING = "waiting"  # in the buffer
    OUT = "out"  # with the core
    LEAVING = "leaving"  # a copy of it is on its way


class Held:
    """One delivery that isn't settled."""

    __slots__ = ("body", "consumer", "papers", "properties", "stage", "tag")

    def __init__(self, tag: int, consumer: str, properties: Any, body: bytes, papers: Papers) -> None:
        self.tag = tag
        self.consumer = consumer
        self.properties = properties
        self.body = body
        self.papers = papers
        self.stage = Stage.WAITING
