"""What is read from a connection and written to it is what the client library would read and write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pika
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from qbridge import Outgoing
from qbridge_rabbitmq.frames import FrameReader, ack_frame, content_frames, joined, publish_frame
from qbridge_rabbitmq.held import Held
from qbridge_rabbitmq.papers import Plain, fresh, glance, read

_CHANNELS = (1, 2)  # those whose deliveries are read here
_FOREIGN = 3
_FRAME_SIZE = 128

_bodies = st.one_of(
    st.binary(max_size=20), st.integers(100, 400).map(bytes), st.integers(100, 400).map(lambda size: b"\xce" * size)
)
_names = st.text(min_size=1, max_size=30)
_headers = st.none() | st.dictionaries(_names, st.integers(0, 100) | st.text(max_size=10), min_size=1, max_size=3)


class Reading:
    """A frame reader, what it gave to whom, and in which order."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[int, Held]] = []
        self.others = b""
        self.order: list[str] = []
        self.reader = FrameReader(self._on_others)
        for channel in _CHANNELS:
            self.reader.takers[channel] = partial(self._take, channel)

    def _take(self, channel: int, helds: Sequence[Held]) -> None:
        self.deliveries += [(channel, held) for held in helds]
        self.order += ["delivery"] * len(helds)

    def _on_others(self, data: bytes) -> None:
        self.others += data
        self.order.append("other")


def delivery(channel: int, tag: int, body: bytes, headers: Any = None) -> bytes:
    """Return the bytes with which a broker delivers a message, a body in as many frames as it needs."""
    method = spec.Basic.Deliver(f"consumer-{channel}", tag, tag % 2 == 1, "", "queue")
    properties = pika.BasicProperties(message_id=f"m{tag}", timestamp=tag, delivery_mode=2, headers=headers)
    most = _FRAME_SIZE - 8
    frames = [frame.Method(channel, method), frame.Header(channel, len(body), properties)]
    frames += [frame.Body(channel, body[start : start + most]) for start in range(0, len(body), most)]
    return b"".join(each.marshal() for each in frames)


def pieces(data: bytes, cuts: Sequence[int]) -> Iterator[bytes]:
    """Cut data at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(places):
        if start < end:
            yield data[start:end]


@given(
    st.lists(st.tuples(st.sampled_from([*_CHANNELS, _FOREIGN]), _bodies, _headers) | st.just(None), max_size=12),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_deliveries_are_read_however_they_arrive(items: list[Any], cuts: list[int]) -> None:
    """Cut anywhere, each delivery in one frame is read here, all else reaches the client library, in its order."""
    reading = Reading()
    data, foreign, expected, order = b"", b"", [], []
    for tag, item in enumerate(items, 1):
        here = frame.Heartbeat().marshal() if item is None else delivery(item[0], tag, item[1], item[2])
        data += here
        if item is not None and item[0] in _CHANNELS and len(item[1]) <= _FRAME_SIZE - 8:
            expected.append((item[0], tag, *item[1:]))
            order.append(("delivery", 1))
        else:
            foreign += here
            order.append(("other", 1 if item is None else 2 + -(-len(item[1]) // (_FRAME_SIZE - 8))))

    taken = sum(reading.reader.feed(piece) for piece in pieces(data, cuts))

    assert foreign == reading.others
    assert len(data) == taken + len(foreign)
    assert expected == [(n, held.tag, held.body, held.properties.headers) for n, held in reading.deliveries]
    assert [what for what, count in order for _ in range(count)] == reading.order
    for channel, held in reading.deliveries:
        assert f"consumer-{channel}".encode() == held.consumer
        assert (held.tag % 2 == 1) == held.is_redelivered
        assert held.has_headers == bool(held.properties.headers)


def test_a_broken_frame_is_left_to_the_client_library() -> None:
    """A frame without its last byte isn't guessed at: the client library ends the connection."""
    reading = Reading()
    data = bytearray(delivery(1, 1, b"body"))
    data[-1] = 0

    reading.reader.feed(bytes(data))

    assert bytes(data) == reading.others
    assert [] == reading.deliveries


def test_a_delivery_waits_for_its_last_byte() -> None:
    """What is not complete is neither given away nor read twice."""
    reading = Reading()
    data = delivery(1, 1, b"body")

    for byte in data[:-1]:
        assert 0 == reading.reader.feed(bytes((byte,)))
    assert len(data) == reading.reader.feed(data[-1:])

    [(_, held)] = reading.deliveries
    assert b"body" == held.body


@given(st.text(max_size=60), st.integers(0, 2**40), st.binary(max_size=300))
def test_a_message_is_written_as_the_client_library_would(name: str, stamp: int, body: bytes) -> None:
    """The frames of a message, of one with plain properties too, are byte for byte the client library's."""
    content = content_frames(5, Plain(name, stamp), body, frame_size=_FRAME_SIZE)
    ours = b"".join([publish_frame(5, "", "queue"), *content])

    properties = pika.BasicProperties(message_id=name, timestamp=stamp, delivery_mode=2)
    most = _FRAME_SIZE - 8
    frames = [frame.Method(5, spec.Basic.Publish(0, "", "queue", True)), frame.Header(5, len(body), properties)]
    theirs = frames + [frame.Body(5, body[start : start + most]) for start in range(0, len(body), most)]
    assert b"".join(each.marshal() for each in theirs) == ours


@given(st.integers(1, 2**16 - 1), st.integers(1, 2**63), st.booleans())
def test_an_acknowledgement_is_written_as_the_client_library_would(channel: int, tag: int, is_multiple: bool) -> None:
    """Byte for byte."""
    theirs = frame.Method(channel, spec.Basic.Ack(tag, is_multiple)).marshal()

    assert theirs == ack_frame(channel, tag, is_multiple=is_multiple)


@given(st.text(max_size=60), st.integers(0, 2**40))
def test_a_glance_tells_what_reading_would(name: str, stamp: int) -> None:
    """A header as `fresh` writes it is read at a glance, with the same result; or not at a glance."""
    message = Outgoing(body=b"body", message_id=name)
    header = bytes(12) + b"".join(fresh(message, stamp).encode())

    seen = glance(header)

    properties = pika.BasicProperties().decode(header, 12)
    assert seen is None or read(properties, b"body") == seen
    assert (seen is not None) == (name.isascii() and name != "")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "content_type": _names,
            "headers": _headers,
            "delivery_mode": st.integers(1, 2),
            "priority": st.integers(0, 9),
            "correlation_id": _names,
            "message_id": _names,
            "timestamp": st.integers(0, 2**40),
            "type": _names,
        },
    )
)
def test_what_has_other_properties_is_not_read_at_a_glance(given_properties: dict[str, Any]) -> None:
    """Headers hold attempts and crashes: of a message with any, or with other properties, all is read."""
    properties = pika.BasicProperties(**given_properties)
    is_plain = {"delivery_mode", "message_id", "timestamp"} == {
        name for name, value in given_properties.items() if value is not None
    }

    seen = glance(bytes(12) + b"".join(properties.encode()))

    assert seen is None or is_plain
    assert seen is None or read(properties, b"") == seen


@given(st.lists(st.binary(max_size=40_000), max_size=12))
def test_frames_are_written_in_few_pieces(frames: list[bytes]) -> None:
    """Joined, no byte is lost, no piece is empty, and only a single frame makes a piece larger than 64 KiB."""
    together = list(joined(frames))

    assert b"".join(frames) == b"".join(together)
    assert all(0 < len(piece) <= 65536 for piece in together)


def test_a_frame_above_the_measure_is_a_piece_of_its_own() -> None:
    """A large frame is not copied together with small ones."""
    assert [b"ab", bytes(70_000), b"c"] == list(joined([b"a", b"b", bytes(70_000), b"c"]))
