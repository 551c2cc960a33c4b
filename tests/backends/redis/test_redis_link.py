"""A connection to Redis: time limits, cancelled callers and order, against a server that answers when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from qbridge import SourceClosed, SourceUnavailable
from qbridge_redis.link import Link
from qbridge_redis.options import RedisOptions


class Server:
    """Lets a client log in, and answers what it asks then with the text of each command, once the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it leaves."""
        await self._read(reader)
        writer.write(b"*2\r\n$1\r\n1\r\n$1\r\n0\r\n")
        while word := await self._read(reader):
            await self.gate.wait()
            writer.write(b"+%b\r\n" % word)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        # Each command here is one word: "*1", its length, and itself.
        lines = [await reader.readline() for _ in range(3)]
        return lines[2].strip()


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, Link]]:
    """A server that waits for its gate, and an open connection to it."""
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        address = RedisOptions.model_validate({"url": f"redis://127.0.0.1:{port}/0"}).address()
        link = Link(address, connect_timeout=5, timeout=30)
        await link.open()
        yield server, link
        await link.close()
        server.gate.set()


async def test_requests_are_answered_in_order(server: tuple[Server, Link]) -> None:
    """Several requests may be under way, of several commands each; each gets its own replies."""
    broker, link = server
    one, two, three = link.request(("A",)), link.request(("B",), ("C",)), link.request(("D",))
    broker.gate.set()

    replies = [*await asyncio.wait_for(asyncio.gather(one, two, three), 5)]

    assert [[b"A"], [b"B", b"C"], [b"D"]] == replies


async def test_the_shortest_time_limit_counts(server: tuple[Server, Link]) -> None:
    """A request with little time ends the connection when it is over, though an earlier one has more."""
    _, link = server
    patient, hasty = link.request(("A",)), link.request(("B",), timeout=0.1)

    for request in (patient, hasty):
        with pytest.raises(SourceUnavailable, match="no answer within the time limit"):
            await asyncio.wait_for(request, 3)  # logging in had 5 s
    with pytest.raises(SourceUnavailable):
        link.raise_if_lost()
    with pytest.raises(SourceUnavailable):
        await link.request(("C",))


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_cancelled_caller_can_hear_the_replies_later(server: tuple[Server, Link], is_early: bool) -> None:
    """Cancelling disturbs nobody, and what the server says is kept for the caller who asks for it."""
    broker, link = server
    cancelled = link.request(("A",))
    cancelled.cancel()
    other = link.request(("B",))
    again = link.listen_again(cancelled) if is_early else None
    broker.gate.set()

    heard = await asyncio.wait_for(other, 5)
    again = again or link.listen_again(cancelled)

    assert [b"B"] == heard
    assert [b"A"] == await asyncio.wait_for(again, 5)


async def test_closing_tells_those_who_wait(server: tuple[Server, Link]) -> None:
    """What is under way ends at once, and so does what is asked afterwards."""
    _, link = server
    request = link.request(("A",))
    await link.close()

    for future in (request, link.request(("B",))):
        with pytest.raises(SourceClosed):
            await asyncio.wait_for(future, 5)
