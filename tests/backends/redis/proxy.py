"""CuttingProxy: stands between a source and its server; loses a reply or delays a request of one's choice."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["CuttingProxy"]


class CuttingProxy:
    """Forwards connections to a port of this machine, as an asynchronous context manager.

    Args:
        port: Where the server listens.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.cuts = 0
        self._target = port
        self._marker: bytes | None = None
        self._held: bytes | None = None
        self._held_reply: bytes | None = None
        self._go_on = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def cut_reply_to(self, marker: bytes) -> None:
        """Let the next request that contains `marker` reach the server; swallow its reply and cut the connection."""
        self._marker = marker

    def hold_request(self, marker: bytes) -> None:
        """Keep the next request that contains `marker` from the server until `release()`."""
        self._held = marker

    def hold_reply_to(self, marker: bytes) -> None:
        """Keep the replies of the connection that next requests something with `marker` until `release()`."""
        self._held_reply = marker

    def release(self) -> None:
        """Let what is held go on."""
        self._held = self._held_reply = None
        self._go_on.set()

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        cut, hold = asyncio.Event(), asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                requests = group.create_task(self._forward_requests(reader, upstream_writer, cut, hold))
                await self._forward_replies(upstream_reader, writer, cut, hold)
                requests.cancel()
        except* OSError:
            pass
        finally:
            writer.close()
            upstream_writer.close()

    async def _forward_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event, hold: asyncio.Event
    ) -> None:
        while received := await reader.read(65536):
            if self._marker is not None and self._marker in received:
                self._marker = None
                cut.set()
            if self._held_reply is not None and self._held_reply in received:
                self._held_reply = None
                hold.set()
            if self._held is not None and self._held in received:
                await self._go_on.wait()
            writer.write(received)
            await writer.drain()
        writer.close()

    async def _forward_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event, hold: asyncio.Event
    ) -> None:
        while received := await reader.read(65536):
            if cut.is_set():
                self.cuts += 1
                return
            if hold.is_set():
                await self._go_on.wait()
                hold.clear()
            writer.write(received)
            await writer.drain()
