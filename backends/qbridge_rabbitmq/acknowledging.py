"""Acknowledger: sends acknowledgements, and learns what became of them. Imports the client library's channel.

AMQP answers none. But a channel works in order: once it has answered a question, it has read what was sent before it.
A broker that hangs, and the buffer of a socket that takes all, answer nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from qbridge import SourceClosed, SourceError
from qbridge_rabbitmq.frames import ack_frame
from qbridge_rabbitmq.link import Channel
from qbridge_rabbitmq.tags import acknowledgements

__all__ = ["Acknowledger"]

#: Acknowledgements that a quorum queue surely takes from a channel at once: others wait in the channel, and are
#: forgotten if it is closed meanwhile. Nothing tells when they were taken; seconds within which they were, amply.
_MOST_FRAMES = 16
_DIGESTING = 0.15


class Acknowledger:
    """What a channel acknowledges. Belongs to its link's loop.

    Args:
        channel: The channel of the deliveries.
        start: Runs something beside; the owner ends it.
        lose: Called with the reason when the channel can't be relied on any more.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        lose: Callable[[SourceError], None],
    ) -> None:
        self._channel = channel
        self._start = start
        self._lose = lose
        self._loop = asyncio.get_running_loop()
        self._sent = 0  # calls of `send`
        self._read = 0  # those of them that the broker has surely read
        self._asking: asyncio.Task[None] | None = None
        self._fault: SourceError | None = None
        self._sent_at = 0.0
        self._frames = 0  # sent without a pause

    @property
    def digesting_for(self) -> float:
        """Seconds for which the broker may forget acknowledgements if the channel is closed."""
        is_much = self._frames >= _MOST_FRAMES
        return max(0.0, self._sent_at + _DIGESTING - self._loop.time()) if is_much else 0.0

    @property
    def is_asking(self) -> bool:
        """Whether the broker has yet to answer: whoever acknowledges in turns waits for that."""
        return self._asking is not None and not self._asking.done()

    def send(self, unsettled: Iterable[int], finished: set[int]) -> None:
        """Acknowledge `finished`, as few frames as the order of the `unsettled` tags allows.

        Raises:
            SourceUnavailable: The channel is lost.
        """
        now = self._loop.time()
        if now > self._sent_at + _DIGESTING:
            self._frames = 0
        self._sent_at = now
        self._sent += 1
        number = self._channel.raw.channel_number
        frames = [
            ack_frame(number, tag, is_multiple=is_multiple)
            for tag, is_multiple in acknowledgements(unsettled, finished)
        ]
        self._channel.cast("write", frames, doing="acknowledging")
        self._frames += len(frames)

    async def all_read(self) -> None:
        """Wait until the broker has read all that was sent before this call. Cancelling it changes nothing.

        Raises:
            SourceUnavailable: It has not, within the time limit, or the channel is lost.
        """
        wanted = self._sent
        while self._read < wanted:
            self._channel.raise_if_lost()
            # One question at a time: the client library can't tell the answers of two apart.
            if self._asking is None or self._asking.done():
                self._asking = self._start(self._ask())
            await asyncio.wait({self._asking})
            if self._fault is not None:
                raise type(self._fault)(str(self._fault))
            if self._asking.cancelled():
                raise SourceClosed("the consuming channel to RabbitMQ is closed")

    async def _ask(self) -> None:
        sent = self._sent
        try:
            # The cheapest call that has an answer: the flow is on already.
            await self._channel.call("flow", True, doing="acknowledging")
        except SourceError as fault:
            self._fault = fault
            self._lose(fault)
        else:
            self._read = sent
