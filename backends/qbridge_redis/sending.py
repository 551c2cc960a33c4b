"""Sending: batches of messages onto the list, or into the set of those that wait. Imports the client library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from qbridge import Outgoing
from qbridge_redis.keys import QueueKeys
from qbridge_redis.link import Link
from qbridge_redis.scripts import load_scripts
from qbridge_redis.settling import microseconds

__all__ = ["send"]

#: What goes into one command: many messages, but never so much that the server is deaf for long.
_MOST_MESSAGES = 1000
_MOST_BYTES = 4 * 1024 * 1024


async def send(link: Link, keys: QueueKeys, new_token: Callable[[], str], messages: Sequence[Outgoing]) -> float | None:
    """Send messages in order; return the shortest delay among those that wait, or None.

    Args:
        link: An open connection.
        keys: The queue's keys.
        new_token: Returns a name that no other send has.
        messages: What to send; a batch of up to 1000 and 4 MiB is accepted whole or not at all.

    Raises:
        SourceFull: The server's memory is full; earlier batches were accepted.
        SourceUnavailable: The outcome is unknown.
    """
    shortest: float | None = None
    for batch in _batches(messages):
        delays = [message.delay for message in batch if message.delay > 0]
        if delays:
            arguments: list[str | bytes] = [f"{new_token()}."]
            for message in batch:
                arguments += (str(microseconds(message.delay)), message.body)
            await link.run(load_scripts().send, keys.all(), arguments)
            shortest = min(delays if shortest is None else [shortest, *delays])
        else:
            await link.call("LPUSH", keys.ready, *[message.body for message in batch])
    return shortest


def _batches(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    if 0 < len(messages) <= _MOST_MESSAGES and sum([len(message.body) for message in messages]) <= _MOST_BYTES:
        yield messages
        return
    batch: list[Outgoing] = []
    size = 0
    for message in messages:
        if batch and (len(batch) == _MOST_MESSAGES or size + len(message.body) > _MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += len(message.body)
    if batch:
        yield batch
