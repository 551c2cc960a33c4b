"""What stands in a message's file: its body, and before it a line of JSON if there is more to keep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

__all__ = ["Note", "pack", "unpack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What is kept of a message beside its body.

    Attributes:
        headers: As they were sent.
        errors: The newest errors of its attempts.
        reason: Why it is a dead letter, or "".
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    errors: Sequence[str] = ()
    reason: str = ""


def pack(note: Note, body: bytes) -> bytes:
    """Return what to write into a file whose name says `noted`."""
    return json.dumps(asdict(note)).encode() + b"\n" + body


def unpack(written: bytes, *, is_noted: bool) -> tuple[Note, bytes]:
    """Return the note and the body that are in a file."""
    if not is_noted:
        return Note(), written
    line, _, body = written.partition(b"\n")
    return Note(**json.loads(line)), body
