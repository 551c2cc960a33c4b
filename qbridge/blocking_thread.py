"""BlockingThread: one thread that makes blocking calls, and the way to it from an event loop."""

from __future__ import annotations

import asyncio
import atexit
import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from qbridge.errors import SourceClosed, SourceError, SourceUnavailable

__all__ = ["BlockingThread"]

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Call:
    """One call: asked for on the loop, made in the thread, answered on the loop.

    Attributes:
        name: What it is, for errors.
        function: Called in the thread.
        future: Where the answer goes; None if nobody waits for it.
        undo: Called in the thread with the result if nobody is there any more to take it.
    """

    name: str
    function: Callable[[], Any]
    future: asyncio.Future[Any] | None
    undo: Callable[[Any], object] | None = None


class BlockingThread:
    """Makes calls in a thread of its own, one after the other; belongs to the loop on which it was made. Started once.

    The thread is a daemon, so that neither a call that hangs nor a forgotten `stop` keeps the process.

    Args:
        name: Of the thread.
        label: What error texts begin with.
        begin: Called first.
        end: Called last, after a `begin` that failed too.
        nudge: Called on the loop after each call that was asked for, so that one under way may make way for it.
    """

    def __init__(
        self,
        name: str,
        *,
        label: str,
        begin: Callable[[], object],
        end: Callable[[], object],
        nudge: Callable[[], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._label = label
        self._opening = _Call("do_open", begin, self._loop.create_future())
        self._end = end
        self._nudge = nudge
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._current: _Call | None = None
        self._since = 0.0
        self._ended: asyncio.Future[None] = self._loop.create_future()
        # Nobody listens any more: what a call claims is undone where it is, in the thread.
        self._is_given_up = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def has_more(self) -> bool:
        """Whether another call waits for its turn. May be asked in the thread."""
        return not self._calls.empty()

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    @property
    def doing(self) -> str:
        """What the thread does, for error texts, such as `do_settle runs since 12.0 s`."""
        current = self._current
        return f"{current.name} runs since {monotonic() - self._since:.1f} s" if current is not None else "it is idle"

    async def start(self, timeout: float) -> None:
        """Start the thread and wait for its first call. After an error or a cancel, call `stop`.

        Raises:
            SourceError: From `begin`, or `SourceUnavailable` if it fails otherwise or takes longer than `timeout`.
        """
        try:
            self._thread.start()
        except RuntimeError as exc:
            raise SourceUnavailable(f"{self._label}: no thread could be started: {exc}") from exc
        atexit.register(self._end_at_exit)
        await self._answer_of(self._opening, timeout)

    async def call(
        self, name: str, function: Callable[[], T], *, timeout: float, undo: Callable[[T], object] | None = None
    ) -> T:
        """Make a call in the thread and return its result. Order is kept.

        Args:
            name: What it is, for errors.
            function: What to call.
            timeout: Seconds, those before its turn included.
            undo: Called in the thread with the result if this caller is cancelled before it has it.

        Raises:
            SourceError: From `function`, or `SourceUnavailable` if it fails otherwise or takes longer than `timeout`.
        """
        call = _Call(name, function, self._loop.create_future(), undo)
        self._put(call)
        result: T = await self._answer_of(call, timeout)
        return result

    def call_soon(self, name: str, function: Callable[[], object]) -> None:
        """Make a call in the thread whose result nobody waits for; a failure is logged."""
        self._put(_Call(name, function, None))

    async def stop(self, timeout: float) -> bool:
        """End the thread after the calls that were asked for before; return whether it has ended.

        If it has not within `timeout` seconds, or this is cancelled, those who wait for a call get `SourceUnavailable`,
        and the thread is left behind: it ends by itself when its call returns, and undoes what that call has claimed.
        """
        if self._thread.ident is None:
            return True
        deadline = monotonic() + timeout
        last: asyncio.Future[None] = self._loop.create_future()
        # What is answered by now may have to be undone by its caller: the thread must not end before that.
        self._put(_Call("stop", _do_nothing, last))
        try:
            await asyncio.wait([last], timeout=timeout)
            self._calls.put(None)
            await asyncio.wait([self._ended], timeout=max(0.0, deadline - monotonic()))
        finally:
            atexit.unregister(self._end_at_exit)
            if not self._ended.done():
                self._give_up()
            if last.done():
                last.exception()  # retrieved, as nobody else asks for it
        if self._ended.done():
            self._thread.join(timeout)
        return self._ended.done()

    def _put(self, call: _Call) -> None:
        self._calls.put(call)
        self._nudge()
        if self._ended.done():
            self._refuse_rest(SourceClosed(f"{self._label} was closed meanwhile"))

    async def _answer_of(self, call: _Call, timeout: float) -> Any:
        future = call.future
        assert future is not None
        try:
            async with asyncio.timeout(timeout):
                try:
                    return await future
                except asyncio.CancelledError:
                    # The answer came and this caller will not see it. One that comes later finds a cancelled future.
                    if future.done() and not future.cancelled() and future.exception() is None:
                        self._undo(call, future.result())
                    raise
        except TimeoutError:
            raise SourceUnavailable(
                f"{self._label}: {call.name} did not end within {timeout:g} s ({self.doing})"
            ) from None

    def _run(self) -> None:
        try:
            if self._make(self._opening):
                while (call := self._calls.get()) is not None:
                    self._make(call)
        finally:
            try:
                self._end()
            except BaseException as exc:  # noqa: BLE001  # there is nobody left to tell
                log.warning(
                    "a blocking source did not close cleanly", extra={"source": self._label, "error": _text(exc)}
                )
            self._tell(self._finish)

    def _make(self, call: _Call) -> bool:
        """Make a call and pass its result on; return whether it worked. In the thread."""
        if call.future is not None and call.future.cancelled():
            return True
        self._since = monotonic()
        self._current = call
        result: Any = None
        fault: BaseException | None = None
        try:
            result = call.function()
        except BaseException as exc:  # noqa: BLE001  # raised where the call is awaited
            fault = exc
        self._current = None
        if call.future is None:
            if fault is not None:
                log.warning(
                    "a blocking call failed",
                    extra={"source": self._label, "call": call.name, "error": _text(fault)},
                )
            return fault is None
        # Nobody will ever see the answer if the source was closed during this call, or the loop was.
        is_heard = not self._is_given_up and self._tell(self._answer, call, result, fault)
        if not is_heard and fault is None and call.undo is not None:
            with suppress(Exception):  # its lease brings it back then
                call.undo(result)
        return fault is None

    def _tell(self, callback: Callable[..., None], *args: object) -> bool:
        """Call `callback` on the event loop; return False if the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            self._calls.put(None)
            return False
        return True

    def _answer(self, call: _Call, result: Any, fault: BaseException | None) -> None:
        future = call.future
        assert future is not None
        if future.done():  # its caller was cancelled, or told that the thread hangs
            if fault is None:
                self._undo(call, result)
        elif fault is None:
            future.set_result(result)
        elif isinstance(fault, SourceError):
            future.set_exception(fault)
        else:
            log.debug("a blocking call raised", extra={"source": self._label, "call": call.name}, exc_info=fault)
            error = SourceUnavailable(f"{self._label}: {call.name} failed with {_text(fault)}")
            error.__cause__ = fault
            future.set_exception(error)

    def _undo(self, call: _Call, result: Any) -> None:
        if call.undo is not None:
            self.call_soon(f"undoing {call.name}", partial(call.undo, result))

    def _give_up(self) -> None:
        self._is_given_up = True
        log.error(
            "a blocking call hangs, its thread is left behind",
            extra={"source": self._label, "doing": self.doing},
        )
        error = SourceUnavailable(f"{self._label} was closed while {self.doing}")
        current = self._current
        self._refuse_rest(error)
        self._calls.put(None)
        if current is not None and current.future is not None and not current.future.done():
            current.future.set_exception(error)

    def _finish(self) -> None:
        self._ended.set_result(None)
        self._refuse_rest(SourceClosed(f"{self._label} was closed meanwhile"))

    def _refuse_rest(self, error: SourceError) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            if call is not None and call.future is not None and not call.future.done():
                call.future.set_exception(error)

    def _end_at_exit(self) -> None:
        self._calls.put(None)
        self._thread.join(1.0)


def _do_nothing() -> None:
    """Be called."""


def _text(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
