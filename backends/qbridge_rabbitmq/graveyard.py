"""The dead letters of a queue: listed, redriven and purged. Imports the client library.

A queue can't be searched, only consumed. So each look takes dead letters from the front, on a channel of its own, and
puts back in one step, in their order, those that stay. While a look lasts, others see fewer.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from qbridge import DeadLetter, DeadLetterReason, SourceError
from qbridge_rabbitmq.held import Held
from qbridge_rabbitmq.link import Channel, Link
from qbridge_rabbitmq.names import QueueNames
from qbridge_rabbitmq.papers import ATTEMPTS, DIED_AT, REASON, copy, errors_of, read, user_headers
from qbridge_rabbitmq.publishing import Letter, Publisher
from qbridge_rabbitmq.raw import unused

__all__ = ["Graveyard"]

#: Dead letters, and bytes of their bodies, of one look: what lies behind is not seen until these are gone.
_MOST_LETTERS = 10_000
_MOST_BYTES = 128 * 1024 * 1024

#: Dead letters taken at once.
_PAGE = 500

#: Seconds without a delivery after which what was counted isn't there any more.
_QUIET = 1.0

#: Seconds between two looks at whether they are back.
_PAUSES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(slots=True)
class _Grave:
    tag: int
    name: str
    properties: Any
    body: bytes


@dataclass(slots=True)
class _Look:
    """What one look has taken and has to put back."""

    channel: Channel
    graves: list[_Grave] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)
    size: int = 0


class Graveyard:
    """The dead letters of one queue.

    Args:
        link: An open link that doesn't publish.
        publisher: What sends what is redriven.
        names: What the queues are called.
    """

    def __init__(self, link: Link, publisher: Publisher, names: QueueNames) -> None:
        self._link = link
        self._publisher = publisher
        self._names = names
        self._looking = asyncio.Lock()

    async def list(self, limit: int, after: str | None, ids: Sequence[str] | None) -> Sequence[DeadLetter]:
        """List dead letters, the oldest first. After one that is gone meanwhile, begin again with the oldest."""
        async with self._looking:
            look = await self._open()
            try:
                await self._take(look)
                graves = look.graves
            finally:
                await self._put_back(look)
        if ids is not None:
            wanted = set(ids)
            return [_dead_letter(grave) for grave in graves if grave.name in wanted]
        place = next((place for place, grave in enumerate(graves, 1) if grave.name == after), 0)
        return [_dead_letter(grave) for grave in graves[place : place + limit]]

    async def redrive(self, ids: Sequence[str] | None) -> int:
        """Make dead letters ready again; None takes all there are when it begins."""
        return await self._settle(ids, self._send)

    async def purge(self, ids: Sequence[str] | None) -> int:
        """Delete dead letters; None takes all."""
        if ids is None:
            async with self._looking:
                look = await self._open()
                try:
                    answer = await look.channel.call("queue_purge", self._names.dead, doing="purging dead letters")
                    return int(answer.message_count)
                finally:
                    await look.channel.close()
        return await self._settle(ids, _keep_none)

    async def _settle(self, ids: Sequence[str] | None, do: Any) -> int:
        total = 0
        async with self._looking:
            wanted = None if ids is None else set(ids)
            while True:
                look = await self._open()
                try:
                    left = await self._take(look)
                    chosen = [grave for grave in look.graves if wanted is None or grave.name in wanted]
                    for start in range(0, len(chosen), _PAGE):
                        page = chosen[start : start + _PAGE]
                        await do(page)
                        for grave in page:
                            look.channel.cast("basic_ack", grave.tag, doing="removing a dead letter")
                        total += len(page)
                    taken = {grave.tag for grave in chosen}
                    look.graves = [grave for grave in look.graves if grave.tag not in taken]
                finally:
                    await self._put_back(look)
                if wanted is not None or not left or not chosen:
                    return total

    async def _send(self, graves: Sequence[_Grave]) -> None:
        await self._publisher.publish(
            [
                Letter(
                    self._names.work, grave.body, copy(grave.properties, read(grave.properties, grave.body).message_id)
                )
                for grave in graves
            ]
        )

    async def _open(self) -> _Look:
        return _Look(await self._link.channel())

    async def _take(self, look: _Look) -> int:
        """Take dead letters from the front; return how many are left there."""
        arrived = asyncio.Event()

        def take(helds: Sequence[Held]) -> None:
            for held in helds:
                name = self._name(look, held.properties, held.body)
                look.graves.append(_Grave(held.tag, name, held.properties, held.body))
                look.size += len(held.body)
            arrived.set()

        look.channel.raw.give_to(take)
        doing = "reading dead letters"
        found = await look.channel.call("queue_declare", self._names.dead, passive=True, doing=doing)
        left = int(found.message_count)
        while left > 0 and len(look.graves) < _MOST_LETTERS and look.size < _MOST_BYTES:
            # Nothing is acknowledged, so a consumer stops after its window; the next one goes on behind it.
            goal = len(look.graves) + min(_PAGE, left)
            before = len(look.graves)
            tag = f"qbridge.{uuid.uuid4().hex}"
            await look.channel.call("basic_qos", prefetch_count=goal - before, doing=doing)
            await look.channel.call("basic_consume", self._names.dead, unused, consumer_tag=tag, doing=doing)
            while len(look.graves) < goal:
                look.channel.raise_if_lost()
                arrived.clear()
                try:
                    async with asyncio.timeout(_QUIET):
                        await arrived.wait()
                except TimeoutError:
                    break
            await look.channel.call("basic_cancel", tag, doing=doing)
            left -= len(look.graves) - before
            if len(look.graves) < goal:
                break
        return left

    async def _put_back(self, look: _Look) -> None:
        try:
            if look.graves:
                # All in one, as the broker puts them back in this order; one by one it may not.
                look.channel.cast("basic_nack", look.graves[-1].tag, True, True, doing="putting dead letters back")
                await self._returned(look, len(look.graves))
        except SourceError:
            return  # the broker has them back when the channel ends
        finally:
            await look.channel.close()

    async def _returned(self, look: _Look, count: int) -> None:
        """Wait until dead letters are back, so that the next look sees them all."""
        # The broker tells nobody when it has put something back, and a quorum queue tells its length from before.
        for pause in _PAUSES:
            found = await look.channel.call(
                "queue_declare", self._names.dead, passive=True, doing="putting dead letters back"
            )
            if found.message_count >= count:
                return
            await asyncio.sleep(pause)

    @staticmethod
    def _name(look: _Look, properties: Any, body: bytes) -> str:
        """Return the name of a dead letter: its message's, with a number if an older one has the same."""
        message_id = read(properties, body).message_id
        count = look.names[message_id] = look.names.get(message_id, 0) + 1
        return message_id if count == 1 else f"{message_id}~{count}"


async def _keep_none(_graves: Sequence[_Grave]) -> None:
    """Do nothing before dead letters are removed."""


def _dead_letter(grave: _Grave) -> DeadLetter:
    headers = grave.properties.headers or {}
    reason, died_at = headers.get(REASON), headers.get(DIED_AT)
    if reason is None:
        # The broker has given it up by itself, after as many deliveries as the queue allows.
        deaths = headers.get("x-death")
        death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
        cause, when = death.get("reason", "unknown"), death.get("time")
        reason = DeadLetterReason.CRASHED.value if cause == "delivery_limit" else str(cause)
        died_at = when.timestamp() if isinstance(when, datetime) else None
    papers = read(grave.properties, grave.body)
    attempts = headers.get(ATTEMPTS)
    return DeadLetter(
        message_id=grave.name,
        body=grave.body,
        headers=user_headers(grave.properties),
        reason=str(reason),
        attempts=int(attempts) if isinstance(attempts, int) else papers.attempts,
        errors=errors_of(grave.properties),
        enqueued_at=papers.enqueued_at,
        died_at=_time(died_at),
    )


def _time(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return time.time()
