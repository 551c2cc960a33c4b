"""Lines from a file descriptor, as they come: without a thread, and without waiting for a batch to fill."""

from __future__ import annotations

import asyncio
import os
import select

__all__ = ["InputLines", "LineTooLongError"]

#: A batch ends with so many lines, or so many bytes.
_MOST_LINES = 1000
_MOST_BYTES = 8 * 2**20

_CHUNK = 2**18


class LineTooLongError(ValueError):
    """A line is over the limit; nothing can be read after it."""


class InputLines:
    """Reads lines, of a pipe, a terminal or a file. Belongs to one loop.

    Args:
        descriptor: Where to read; it is not closed.
        longest: Bytes that a line may have.
    """

    def __init__(self, descriptor: int, *, longest: int) -> None:
        self._descriptor = descriptor
        self._longest = longest
        self._buffer = bytearray()
        self._searched = 0
        self._is_at_end = False
        #: Bytes read so far.
        self.position = 0

    async def batch(self) -> list[bytes]:
        """Return the lines that are there, without their ends; wait for the first one; [] at the end of the input.

        At most 1000 lines, or 8 MiB and one line. Cancelling loses no line.

        Raises:
            LineTooLongError: The next line is over the limit; those before it were returned.
            OSError: It can't be read.
        """
        lines: list[bytes] = []
        size = 0
        while len(lines) < _MOST_LINES and size < _MOST_BYTES:
            line = self._take()
            if line is not None:
                lines.append(line)
                size += len(line)
            elif len(self._buffer) > self._longest:
                if lines:
                    break
                raise LineTooLongError(f"the line has more than {self._longest} bytes")
            elif self._is_at_end or (lines and not self._has_more()):
                break
            else:
                await self._fill()
        return lines

    def _take(self) -> bytes | None:
        """Return the next line of the buffer; None if there is no whole one."""
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._buffer)
            if not self._is_at_end or not self._buffer or len(self._buffer) > self._longest:
                return None
            end = len(self._buffer)
        elif end > self._longest:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line.removesuffix(b"\r")

    def _has_more(self) -> bool:
        return bool(select.select([self._descriptor], [], [], 0)[0])

    async def _fill(self) -> None:
        try:
            await self._readable()
            chunk = os.read(self._descriptor, _CHUNK)
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, "standard input") from exc
        self._is_at_end = not chunk
        self._buffer += chunk
        self.position += len(chunk)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        is_readable = asyncio.Event()
        try:
            loop.add_reader(self._descriptor, is_readable.set)
        except PermissionError:  # a file: epoll takes none, as they are always readable
            return
        try:
            await is_readable.wait()
        finally:
            loop.remove_reader(self._descriptor)
