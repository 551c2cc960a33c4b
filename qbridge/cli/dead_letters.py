"""How dead letters are shown: as rows of a list, and one with all that is kept of it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pydantic_core

from qbridge.cli.operating import bounded
from qbridge.cli.output import printable, time_text
from qbridge.codec import Codec
from qbridge.errors import MessageError
from qbridge.source import DeadLetter, Delivery, QueueSource

__all__ = ["details", "found", "row", "text", "walk"]

#: Dead letters asked for at once: each may be as large as a message.
_PAGE = 100


async def walk(source: QueueSource, queue: str, *, limit: int, after: str | None) -> AsyncIterator[DeadLetter]:
    """Yield up to `limit` dead letters in the order in which they died, a page in memory at a time, each once."""
    seen: set[str] = set()
    while len(seen) < limit:
        page = await bounded(source.dead_letters(limit=min(limit, _PAGE), after=after), queue)
        if not page:
            return
        # The list begins again if somebody takes away the letter that a page ended with.
        for letter in page:
            if letter.message_id not in seen and len(seen) < limit:
                seen.add(letter.message_id)
                yield letter
        after = page[-1].message_id


async def found(source: QueueSource, queue: str, ids: Sequence[str]) -> list[str]:
    """Return those of the ids that are dead letters of the queue, in the order in which they were given."""
    known: set[str] = set()
    for start in range(0, len(ids), _PAGE):
        page = await bounded(source.dead_letters(ids=ids[start : start + _PAGE]), queue)
        known.update(letter.message_id for letter in page)
    return [each for each in ids if each in known]


def row(letter: DeadLetter, codec: Codec) -> dict[str, Any]:
    """Return what a list says of a dead letter; `error` is the first line of the last error."""
    return {
        "id": letter.message_id,
        "task": _task(letter, codec),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "error": letter.errors[-1].partition("\n")[0] if letter.errors else "",
        "enqueued_at": letter.enqueued_at,
        "died_at": letter.died_at,
    }


def details(letter: DeadLetter, codec: Codec) -> dict[str, Any]:
    """Return all that is kept of a dead letter; of a body that is no text, `body` is null."""
    return {
        "id": letter.message_id,
        "task": _task(letter, codec),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "enqueued_at": letter.enqueued_at,
        "died_at": letter.died_at,
        "headers": dict(letter.headers),
        "errors": list(letter.errors),
        "body": _body_text(letter),
        "body_base64": base64.b64encode(letter.body).decode(),
    }


def text(letter: DeadLetter, codec: Codec) -> Iterator[str]:
    """Yield the lines in which people read all that is kept of a dead letter."""
    yield f"id           {printable(letter.message_id)}"
    yield f"task         {_task(letter, codec) or '-'}"
    yield f"reason       {printable(letter.reason)}"
    yield f"attempts     {letter.attempts}"
    yield f"enqueued at  {time_text(letter.enqueued_at)}"
    yield f"died at      {time_text(letter.died_at)}"
    yield ""
    yield f"headers{'' if letter.headers else ': none'}"
    for name, value in letter.headers.items():
        yield f"  {printable(name)}: {printable(value)}"
    yield ""
    yield f"body, {len(letter.body)} bytes"
    yield from _indented(_body_pretty(letter))
    for number, error in enumerate(letter.errors, start=1):
        yield ""
        yield f"error {number} of {len(letter.errors)}"
        yield from _indented(error)


def _task(letter: DeadLetter, codec: Codec) -> str | None:
    """Return the task's name; None if the body can't be read."""
    delivery = Delivery(body=letter.body, receipt=None, message_id=letter.message_id, headers=letter.headers)
    try:
        return codec.decode(delivery).task
    except MessageError:
        return None


def _body_text(letter: DeadLetter) -> str | None:
    try:
        return letter.body.decode()
    except UnicodeDecodeError:
        return None


def _body_pretty(letter: DeadLetter) -> str:
    try:
        return json.dumps(pydantic_core.from_json(letter.body), indent=2, ensure_ascii=False)
    except ValueError:
        return letter.body.decode(errors="backslashreplace")


def _indented(text: str) -> Iterator[str]:
    for line in printable(text).split("\n"):
        yield f"  {line}".rstrip()
