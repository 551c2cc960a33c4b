"""What a supervisor and its worker say to one another, cut anywhere, unread or unheard."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from qbridge.lifeline import MARKER, Lifeline, Line, Lines
from tests.support.waiting import Watch


@pytest.fixture
def sides() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's side and the worker's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def heard(connection: socket.socket) -> list[Line]:
    """Return what can be read at once."""
    connection.setblocking(False)
    lines = Lines()
    try:
        return lines.feed(connection.recv(65_536))
    except BlockingIOError:
        return []


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_arrive_whole_however_they_are_cut(size: int) -> None:
    """A stream has no borders: lines are the same, whatever pieces they come in."""
    said = [Line("ready"), Line("recycle", "größer\nals\u2028das"), Line("ended", 5), Line("problems", ["a", "b"])]
    stream = b"".join(line.encode() for line in said)
    lines = Lines()

    arrived = [line for start in range(0, len(stream), size) for line in lines.feed(stream[start : start + size])]

    assert said == arrived


def test_a_worker_is_one_only_once(sides: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker is taken out of the environment, and the socket is kept from processes that the worker starts."""
    _, theirs = sides
    theirs.set_inheritable(True)
    descriptor = theirs.detach()
    monkeypatch.setenv(MARKER, f"3:{descriptor}")

    lifeline = Lifeline.from_environment()

    assert lifeline is not None
    with lifeline._connection:
        assert 3 == lifeline.slot
        assert MARKER not in os.environ
        assert not os.get_inheritable(descriptor)
        assert Lifeline.from_environment() is None


def test_any_bytes_arrive_as_configuration(sides: tuple[socket.socket, socket.socket]) -> None:
    """The file's text is handed on as it is, whatever bytes it has."""
    ours, theirs = sides
    text = bytes(range(256)) * 10

    ours.sendall(Line("configuration", text.decode("latin-1")).encode() + Line("stop", False).encode())

    assert text == Lifeline(theirs, 1).configuration()


def test_a_worker_without_supervisor_gets_no_configuration(sides: tuple[socket.socket, socket.socket]) -> None:
    """A supervisor that dies while its worker starts leaves it without anything to do."""
    ours, theirs = sides
    ours.sendall(b'["configura')
    ours.close()

    assert Lifeline(theirs, 1).configuration() is None


async def test_what_was_said_with_the_configuration_is_heeded(sides: tuple[socket.socket, socket.socket]) -> None:
    """A stop that came before the worker could listen is not lost."""
    ours, theirs = sides
    lifeline = Lifeline(theirs, 1)
    ours.sendall(Line("configuration", "x").encode() + Line("stop", True).encode())
    assert b"x" == lifeline.configuration()
    stops: list[bool] = []

    async with lifeline.held(stop=stops.append, wear=lambda: None):
        assert [True] == stops


async def test_a_supervisor_that_goes_lets_its_worker_drain(sides: tuple[socket.socket, socket.socket]) -> None:
    """The end of the supervisor's side is an order to drain, once, and nothing is cancelled."""
    ours, theirs = sides
    stops: list[bool] = []
    watch = Watch()

    def stop(now: bool) -> None:
        stops.append(now)
        watch.changed()

    async with Lifeline(theirs, 1).held(stop=stop, wear=lambda: None):
        ours.close()
        await watch.until(lambda: stops)
        await asyncio.sleep(0)

    assert [False] == stops


async def test_wear_is_told_again_and_again(
    sides: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker gives signs of life, and says that it is worn out instead of it for as long as it is."""
    monkeypatch.setattr("qbridge.lifeline.BEAT", 0.001)
    ours, theirs = sides
    asked = asyncio.Event()
    answers = iter([None, "max_tasks: 1 of 1", "max_tasks: 2 of 1"])

    def wear() -> str | None:
        answer = next(answers, "")
        if answer == "":
            asked.set()
            return None
        return answer

    async with Lifeline(theirs, 1).held(stop=lambda _: None, wear=wear):
        await asyncio.wait_for(asked.wait(), 20)

    said = heard(ours)
    assert [Line("ready"), Line("beat"), Line("recycle", "max_tasks: 1 of 1")] == said[:3]
    assert Line("recycle", "max_tasks: 2 of 1") == said[3]


async def test_a_supervisor_that_does_not_read_holds_nobody(
    sides: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signs of life that find no room are dropped: a worker of a stopped supervisor works on, and ends."""
    monkeypatch.setattr("qbridge.lifeline._PATIENCE", 0.05)
    _, theirs = sides
    theirs.setblocking(False)
    with suppress(BlockingIOError):
        while theirs.send(b"x" * 65_536):
            pass
    monkeypatch.setattr("qbridge.lifeline.BEAT", 0.001)
    beats = 0
    enough = asyncio.Event()

    def wear() -> None:
        nonlocal beats
        beats += 1
        if beats == 3:
            enough.set()

    lifeline = Lifeline(theirs, 1)
    async with lifeline.held(stop=lambda _: None, wear=wear):
        await asyncio.wait_for(enough.wait(), 20)
        lifeline.tell_end(0)

    assert beats >= 3


async def test_what_finds_room_in_part_is_said_to_its_end(
    sides: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that reads late gets whole lines, however large: none is a part of the one before it."""
    monkeypatch.setattr("qbridge.lifeline.BEAT", 0.001)
    ours, theirs = sides
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    large = {"queues": "x" * 1_000_000}
    asked = 0
    enough = asyncio.Event()

    def snapshot() -> object:
        nonlocal asked
        asked += 1
        if asked == 3:
            enough.set()
        return large

    lifeline = Lifeline(theirs, 1)
    async with lifeline.held(stop=lambda _: None, wear=lambda: None, snapshot=snapshot):
        await asyncio.wait_for(enough.wait(), 20)
    ours.settimeout(20)
    ending = asyncio.create_task(asyncio.to_thread(lifeline.tell_end, 5))
    lines = Lines()
    said: list[Line] = []
    while not said or said[-1].word != "ended":
        said += lines.feed(await asyncio.to_thread(ours.recv, 65_536))
    await ending

    assert Line("ready") == said[0]
    assert Line("snapshot", large) in said
    assert {"ready", "beat", "snapshot", "ended"} == {line.word for line in said}
