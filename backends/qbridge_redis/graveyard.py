"""The operator's door: list, redrive and purge dead letters, in bounded steps. Imports the client library."""

from __future__ import annotations

from collections.abc import Sequence

from qbridge import DeadLetter
from qbridge_redis.link import Link
from qbridge_redis.scripts import load_scripts

__all__ = ["find_dead_letters", "list_dead_letters", "purge", "redrive"]

#: Dead letters of one reply, each with its body and up to ten error texts.
_PAGE = 50

#: Dead letters that one call of a script moves or deletes.
_STEP = 500


async def list_dead_letters(link: Link, keys: Sequence[str], limit: int, after: str | None) -> list[DeadLetter]:
    """Return up to `limit` dead letters in the order of their deaths, those after `after` or from the oldest on."""
    found: list[DeadLetter] = []
    while len(found) < limit:
        asked = min(_PAGE, limit - len(found))
        page = _read(await link.run(load_scripts().dead_letters, keys, ["page", _wire(after or ""), asked]))
        found += page
        if len(page) < asked:
            break
        after = page[-1].message_id
    return found


async def find_dead_letters(link: Link, keys: Sequence[str], ids: Sequence[str]) -> list[DeadLetter]:
    """Return the dead letters with these ids that exist, in the order in which they died."""
    found: list[DeadLetter] = []
    for start in range(0, len(ids), _PAGE):
        step = map(_wire, ids[start : start + _PAGE])
        found += _read(await link.run(load_scripts().dead_letters, keys, ["ids", *step]))
    return sorted({letter.message_id: letter for letter in found}.values(), key=lambda letter: letter.died_at)


async def redrive(link: Link, keys: Sequence[str], ids: Sequence[str] | None) -> int:
    """Make dead letters ready again, all or those with these ids; return how many."""
    return await _exhume(link, keys, "redrive", ids)


async def purge(link: Link, keys: Sequence[str], ids: Sequence[str] | None) -> int:
    """Delete dead letters for good, all or those with these ids; return how many."""
    return await _exhume(link, keys, "purge", ids)


async def _exhume(link: Link, keys: Sequence[str], action: str, ids: Sequence[str] | None) -> int:
    script = load_scripts().exhume
    total: int = 0
    if ids is not None:
        for start in range(0, len(ids), _STEP):
            step = map(_wire, ids[start : start + _STEP])
            count, _ = await link.run(script, keys, [action, "ids", *step])
            total += count
        return total
    until: str | int = "+inf"
    while True:
        count, now = await link.run(script, keys, [action, "all", until, _STEP])
        total += count
        if count < _STEP:
            return total
        if until == "+inf":
            until = now


def _wire(message_id: str) -> bytes:
    # What a person typed may have no UTF-8; then it is no id of ours either.
    return message_id.encode("utf-8", "backslashreplace")


def _read(reply: Sequence[bytes]) -> list[DeadLetter]:
    letters = []
    for start in range(0, len(reply), 5):
        message_id, died, grave, errors, body = reply[start : start + 5]
        attempts, sent, reason = grave.split(b" ", 2)
        letters.append(
            DeadLetter(
                message_id=message_id.decode(),
                body=body,
                reason=reason.decode("utf-8", "replace"),
                attempts=int(attempts),
                errors=_read_errors(errors),
                died_at=float(died) / 1e6,
                enqueued_at=None if sent == b"0" else int(sent) / 1e6,
            )
        )
    return letters


def _read_errors(history: bytes) -> tuple[str, ...]:
    # A row of netstrings without commas: "5:first6:second".
    errors = []
    at = 0
    while at < len(history):
        colon = history.index(b":", at)
        end = colon + 1 + int(history[at:colon])
        errors.append(history[colon + 1 : end].decode("utf-8", "replace"))
        at = end
    return tuple(errors)
