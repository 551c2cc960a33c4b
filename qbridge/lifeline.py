"""Lifeline: the socket between a supervisor and one of its worker processes, as the worker holds it.

Whatever ends the supervisor closes its side, so a worker learns of it without asking, and drains. Both sides say lines
of JSON, a word and a value each. The supervisor says `configuration` once, then `stop`; the worker says `ready` when it
takes signals, `beat` every second, `recycle` instead of it while it is worn out, `snapshot` with it if there are
probes, `problems` if the configuration is wrong, and `ended` when its drain is over. A process that goes without
`ended` or `problems` has crashed, whatever its exit code.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

__all__ = ["MARKER", "Lifeline", "Line", "Lines"]

log = logging.getLogger(__name__)

#: The environment variable that makes `qbridge run` a worker of a supervisor: `<slot>:<file descriptor>`.
MARKER = "_QBRIDGE_WORKER"

#: Seconds between two signs of life.
BEAT = 1.0

#: Seconds that a supervisor which doesn't read may delay the end of its worker.
_PATIENCE = 2.0

_CHUNK = 65_536


class Line(NamedTuple):
    """One thing that is said.

    Attributes:
        word: What it is about.
        value: Anything that JSON can write.
    """

    word: str
    value: object = None

    def encode(self) -> bytes:
        """Return it as bytes that end a line."""
        return json.dumps([self.word, self.value], ensure_ascii=False).encode() + b"\n"


class Lines:
    """Cuts what comes from a stream into lines."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, received: bytes) -> list[Line]:
        """Return the lines that are complete with this."""
        self._rest += received
        if b"\n" not in received:
            return []
        *complete, rest = self._rest.split(b"\n")
        self._rest = rest
        return [Line(*json.loads(line)) for line in complete]


class Lifeline:
    """The worker's side. `configuration` and `report` may be called before a loop runs; the rest belongs to the loop.

    Args:
        connection: The socket.
        slot: Which of the supervisor's workers this is, from 1.
    """

    def __init__(self, connection: socket.socket, slot: int) -> None:
        self._connection = connection
        self._lines = Lines()
        self._heard: list[Line] = []
        self._unsent = bytearray()
        self.slot = slot

    @classmethod
    def from_environment(cls) -> Lifeline | None:
        """Return the lifeline that a supervisor gave this process; None if there is no supervisor.

        What this process starts itself inherits neither the socket nor the variable.
        """
        marker = os.environ.pop(MARKER, None)
        if marker is None:
            return None
        slot, _, descriptor = marker.partition(":")
        connection = socket.socket(fileno=int(descriptor))
        connection.set_inheritable(False)
        return cls(connection, int(slot))

    def configuration(self) -> bytes | None:
        """Wait for the text of the YAML file, which is the same for all workers; None if the supervisor has gone."""
        self._connection.setblocking(True)
        while not self._heard:
            received = self._connection.recv(_CHUNK)
            if not received:
                return None
            self._heard += self._lines.feed(received)
        text = self._heard.pop(0).value
        return str(text).encode("latin-1")  # the supervisor's way to write any bytes as JSON

    def report(self, problems: Sequence[str]) -> None:
        """Let the supervisor tell what is wrong with the configuration: once, and not once for each worker."""
        self._connection.setblocking(True)
        with suppress(OSError):
            self._connection.sendall(Line("problems", list(problems)).encode())

    def tell_end(self, code: int) -> None:
        """Tell that the drain is over, and with which exit code this process is about to end."""
        self._connection.settimeout(_PATIENCE)
        with suppress(OSError):
            self._connection.sendall(self._unsent + Line("ended", code).encode())

    @asynccontextmanager
    async def held(
        self,
        *,
        stop: Callable[[bool], None],
        wear: Callable[[], str | None],
        snapshot: Callable[[], object] = lambda: None,
    ) -> AsyncIterator[None]:
        """Heed the supervisor, and give it signs of life, until the context ends.

        Args:
            stop: Called when this worker shall drain, with whether handlers are cancelled at once. May be called more
                than once.
            wear: Asked every second why this worker should be followed by a fresh one; None if it shouldn't.
            snapshot: Asked every second what the supervisor is told of this worker, as JSON has it; None tells nothing.
        """
        loop = asyncio.get_running_loop()
        self._connection.setblocking(False)
        loop.add_reader(self._connection, self._receive, stop)
        self._say(Line("ready"))
        self._heed(stop)
        beating = loop.create_task(self._beat(wear, snapshot), name="lifeline")
        try:
            yield
        finally:
            beating.cancel()
            loop.remove_reader(self._connection)

    def _receive(self, stop: Callable[[bool], None]) -> None:
        try:
            received = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except ConnectionError:
            received = b""
        if not received:
            asyncio.get_running_loop().remove_reader(self._connection)
            log.warning("the supervisor is gone, draining")
            stop(False)
            return
        self._heard += self._lines.feed(received)
        self._heed(stop)

    def _heed(self, stop: Callable[[bool], None]) -> None:
        heard, self._heard = self._heard, []
        for line in heard:
            if line.word == "stop":
                if line.value:
                    log.warning("cancelling the handlers, the supervisor asks for it")
                else:
                    log.info("draining, the supervisor asks for it")
                stop(bool(line.value))

    async def _beat(self, wear: Callable[[], str | None], snapshot: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(BEAT)
            reason = wear()
            self._say(Line("beat") if reason is None else Line("recycle", reason))
            if (told := snapshot()) is not None:
                self._say(Line("snapshot", told))

    def _say(self, line: Line) -> None:
        # A supervisor that is stopped doesn't read. Signs of life that find no room say nothing new; only a line that
        # was begun is said to its end, or the next would be taken for a part of it.
        with suppress(OSError):
            if self._unsent:
                del self._unsent[: self._connection.send(self._unsent)]
            if not self._unsent:
                self._unsent += line.encode()
                del self._unsent[: self._connection.send(self._unsent)]
