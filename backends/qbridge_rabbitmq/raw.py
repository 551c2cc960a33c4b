"""RawConnection and RawChannel: the client library's own, which read deliveries and write messages in our way.

Why, and what of the client library this leans on: docs/decisions/rabbitmq-frames.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel
from pika.exceptions import ChannelWrongStateError

from qbridge_rabbitmq.frames import FrameReader, joined
from qbridge_rabbitmq.held import Held

__all__ = ["RawChannel", "RawConnection", "unused"]


class RawChannel(Channel):  # type: ignore[misc]  # pika ships no types
    """Hands deliveries over by itself.

    The client library rejects those that come after a consumer was cancelled, and each rejection counts as a failed
    delivery with the broker.
    """

    _taker: Callable[[list[Held]], None] | None = None

    def give_to(self, taker: Callable[[list[Held]], None]) -> None:
        """Give what is delivered to `taker`, which must not raise."""
        self._taker = taker
        self.connection.reader.takers[self.channel_number] = taker
        self.add_on_close_callback(lambda *_: self.connection.reader.takers.pop(self.channel_number, None))

    def write(self, frames: Sequence[bytes]) -> None:
        """Write whole frames of this channel.

        Raises:
            pika.exceptions.AMQPError: The channel isn't open.
        """
        if not self.is_open:
            raise ChannelWrongStateError("the channel is closed")
        self.connection.write(frames)

    def _on_deliver(self, method_frame: Any, header_frame: Any, body: bytes) -> None:
        # What the frame reader leaves: messages of several frames.
        if self._taker is not None:
            method, properties = method_frame.method, header_frame.properties
            held = Held(
                method.delivery_tag,
                method.consumer_tag.encode(),
                is_redelivered=method.redelivered,
                body=body,
                properties=properties,
            )
            self._taker([held])


class RawConnection(AsyncioConnection):  # type: ignore[misc]  # pika ships no types
    """Reads deliveries by itself, and writes whole batches."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.reader = FrameReader(super()._on_data_available)
        super().__init__(*arguments, **named)

    def _create_channel(self, channel_number: int, on_open_callback: Any) -> RawChannel:
        return RawChannel(self, channel_number, on_open_callback)

    def write(self, frames: Sequence[bytes]) -> None:
        """Write whole frames, or parts of frames that follow one another."""
        for piece in joined(frames):
            self.bytes_sent += len(piece)
            self._adapter_emit_data(piece)

    def _on_data_available(self, data_in: bytes) -> None:
        taken = self.reader.feed(data_in)  # of the others the client library counts the bytes meanwhile
        self.bytes_received += taken  # by it heartbeats know that the broker is alive


def unused(*_: Any) -> None:
    """Stand for the callback that the client library wants: deliveries don't come through it."""
