"""QBridge: what a program imports. A registry, queues, `send` and `run`."""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from qbridge.backend import Backend
from qbridge.config import Config, build_config
from qbridge.crossing import Crossing
from qbridge.discovery import installed_backends
from qbridge.dispatcher import DrainReport
from qbridge.errors import BridgeStateError, ConfigError, UnknownQueueError
from qbridge.event_hub import EventHub
from qbridge.message import MessageFields, TaskMessage, fields_of, fields_of_call, fields_of_calls
from qbridge.registry import HandlerRegistry
from qbridge.sender import SEND_TIMEOUT, Sender
from qbridge.source import Outgoing, QueueSource
from qbridge.units import format_duration
from qbridge.watchdog import LoopHealth
from qbridge.worker import Worker

if TYPE_CHECKING:
    from qbridge.snapshot import WorkerSnapshot

__all__ = ["QBridge"]

#: Seconds that closing a sender may take when its worker has used up the time to leave.
_LAST_CLOSE = 0.2


class QBridge:
    """Sends tasks, and runs them on loop threads.

    Belongs to the event loop in which it is entered (`async with`); `send`, `send_many`, `send_each` and `stop` may be
    called from any other loop or thread as well, handlers included.

    Args:
        registry: The handlers; a program that only sends needs none.
        queues: Queues by name, each with the keys that it would have in the YAML; `backend` may also be a `Backend`
            that is not installed. None makes one queue in memory, called `default`.
        **settings: The other keys of the YAML: `loops`, `retry`, `max_crashes`, `shutdown`.

    Raises:
        ConfigError: A setting is wrong; the text names each one.

    Example:
        >>> import asyncio
        >>> from qbridge import HandlerRegistry, QBridge
        >>> registry = HandlerRegistry()
        >>> @registry.task
        ... async def greet(name: str) -> None:
        ...     print(f"hello {name}")
        >>> async def main() -> None:
        ...     async with QBridge(registry) as bridge:
        ...         await bridge.send("greet", "world")
        ...         await bridge.run(burst=True)
        >>> asyncio.run(main())
        hello world
    """

    def __init__(
        self,
        registry: HandlerRegistry | None = None,
        *,
        queues: Mapping[str, Mapping[str, Any]] | None = None,
        **settings: Any,
    ) -> None:
        if queues is None:
            queues = {"default": {"backend": "memory"}}
        plain: dict[str, Any] = {}
        own: dict[str, Backend[Any]] = {}
        backends = ChainMap(own, cast("dict[str, Backend[Any]]", installed_backends()))  # only `own` is written to
        for name, keys in queues.items():
            plain[name] = keys
            if isinstance(keys, Mapping) and isinstance(backend := keys.get("backend"), Backend):
                own[backend.name] = backend
                plain[name] = {**keys, "backend": backend.name}
        config = build_config({"handlers": [], "queues": plain, **settings}, backends=backends)
        if config.processes > 1 or config.recycle.is_active:
            raise ConfigError(
                "processes and recycle are for 'qbridge run', a bridge is in one process: start as many of your program"
            )
        if config.probes is not None:
            raise ConfigError("probes are for a service, a bridge listens nowhere: show what QBridge.snapshot tells")
        self._set_up(registry, config)

    @classmethod
    def from_config(cls, registry: HandlerRegistry | None, config: Config) -> Self:
        """Return a bridge with the settings of a YAML file; see `qbridge.load_config`.

        `processes` and `recycle` are for `qbridge run`: here they change nothing.
        """
        bridge = cls.__new__(cls)
        bridge._set_up(registry, config)
        return bridge

    def _set_up(self, registry: HandlerRegistry | None, config: Config) -> None:
        self.registry = HandlerRegistry() if registry is None else registry
        self.config = config
        #: Those who listen to what the worker does.
        self.events = EventHub()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._crossing: Crossing | None = None
        self._senders: dict[str, Sender] = {}
        self._is_left = False
        self._worker: Worker | None = None
        self._stop_asked = False

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise BridgeStateError("this bridge was entered before; make another one")
        self._loop = asyncio.get_running_loop()
        self._crossing = Crossing(self._loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None and not self._worker.ended.is_set():
            # It runs in a task of its own: the work under way is drained before its way to send is closed.
            self._worker.stop()
            await self._worker.ended.wait()
        self._is_left = True
        senders, self._senders = self._senders, {}
        timeout = SEND_TIMEOUT
        if self._worker is not None:  # no handler is left that sends, and a dead broker must not hold the process
            timeout = max(_LAST_CLOSE, self.leave_at - monotonic())
        try:
            await asyncio.gather(*(sender.close(timeout) for sender in senders.values()))
        finally:
            if self._crossing is not None:
                self._crossing.close()

    async def send(
        self,
        task: str,
        /,
        *args: Any,
        queue: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Send one task; return its id when the broker has it.

        Sends that overlap share a round trip. For arguments called `queue`, `delay` or `headers`, use `send_many`
        with a `TaskMessage`.

        Args:
            task: The handler's name.
            args: Its positional arguments, of types that JSON or pydantic can write.
            queue: Where to; None takes the only queue there is, or the one called `default`.
            delay: Seconds before it may start.
            headers: Text pairs that reach the handler through its `TaskContext`.
            kwargs: Its named arguments.

        Raises:
            pydantic.ValidationError: The task's name, or a header, is none that a `TaskMessage` may have.
            ValueError: The queue can't delay for so long, or can't carry headers.
            UnknownQueueError: No queue has that name.
            UndecodableMessageError: An argument can't be written as JSON.
            MessageTooLargeError: It is over the queue's `max_message_size`.
            SourceFull: The broker has no room.
            SourceUnavailable: The broker can't be reached, or did not answer: the message may or may not be there.
        """
        fields = fields_of_call(task, args, kwargs, dict(headers) if headers else {})
        sender = self._sender(queue, delay) or await self._make_sender(queue)
        await self._sending(sender, [sender.encode_one(fields, delay)])
        return fields["id"]

    async def send_many(
        self, messages: Iterable[TaskMessage], *, queue: str | None = None, delay: float = 0.0
    ) -> list[str]:
        """Send many tasks in few round trips; return their ids when the broker has all of them.

        Order is kept. All are written before the first is sent, so one that can't be means that none was; after an
        error of the broker some may have been sent.

        Args:
            messages: What to run. Those of a generator are written as they are made: that takes less time and memory
                than a list of them.
            queue: Where to, as in `send`.
            delay: Seconds before they may start.

        Raises:
            The same errors as `send`.
        """
        return await self._send_all(map(fields_of, messages), queue, delay)

    async def send_each(
        self,
        task: str,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        /,
        *,
        queue: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Send one task for each of these arguments; return their ids when the broker has all of them.

        Does what `send_many` does, in less time, as no `TaskMessage` is made.

        Args:
            task: The handler's name.
            calls: For each task a tuple or list of its positional arguments, or a dict of its named ones.
            queue: Where to, as in `send`.
            delay: Seconds before they may start.
            headers: Text pairs that reach the handler with each.

        Raises:
            TypeError: A call is neither a tuple, a list nor a dict; nothing is sent.
            The same errors as `send`.
        """
        return await self._send_all(fields_of_calls(task, calls, dict(headers) if headers else {}), queue, delay)

    @asynccontextmanager
    async def source(self, queue: str | None = None) -> AsyncIterator[QueueSource]:
        """Open a queue's source for an operator's work: counting, listing and redriving dead letters.

        Raises:
            UnknownQueueError: No queue has that name.
            SourceUnavailable: The broker can't be reached.
            SourceMisconfigured: The broker refuses what was configured.
        """
        source = self._new_source(self._queue_name(queue))
        try:
            await source.open()
            yield source
        finally:
            await source.close()

    async def run(self, *, burst: bool = False) -> DrainReport:
        """Take tasks from all queues and run them until `stop` is called; then drain.

        Cancelling this call drains as well, and raises `CancelledError` when that is done; cancelling again cancels
        the handlers. Called once in the life of a bridge, between entering and leaving it.

        Args:
            burst: End by itself when no queue has a message ready and nothing runs here. Delayed messages are left.

        Returns:
            What became of the work that was under way when the drain began.

        Raises:
            SourceMisconfigured: A broker refuses what was configured. The other queues are drained first.
            BridgeStateError: The bridge was not entered, or has run before.
        """
        if self._loop is not asyncio.get_running_loop():
            raise BridgeStateError("run a bridge on the loop that entered it: async with QBridge(...) as bridge")
        if self._worker is not None:
            raise BridgeStateError("this bridge has run before; make another one")
        self._worker = Worker(
            self.registry, self.config, new_source=self._new_source, send=self._send_from_handler, events=self.events
        )
        if self._stop_asked:
            self._worker.stop()
        return await self._worker.run(burst=burst)

    def stop(self, *, now: bool = False) -> None:
        """Let `run` drain and return. May be called from any thread, before `run` and more than once.

        Args:
            now: Cancel running handlers at once instead of waiting for the grace.
        """
        if self._loop is None:
            raise BridgeStateError("stop a bridge after it was entered: async with QBridge(...) as bridge")
        self._loop.call_soon_threadsafe(self._stop, now)

    @property
    def is_wedged(self) -> bool:
        """Whether a loop thread or a worker thread outlived the drain; the process can't end by itself then."""
        return self._worker is not None and self._worker.is_wedged

    @property
    def tasks_ended(self) -> int:
        """How many tasks have ended in this process since `run` was called, well or not."""
        return 0 if self._worker is None else self._worker.tasks_ended

    @property
    def loop_health(self) -> LoopHealth:
        """Which loops of the worker are blocked, and what has happened to them; on the bridge's own loop."""
        return LoopHealth() if self._worker is None else self._worker.loop_health

    @property
    def snapshot(self) -> WorkerSnapshot | None:
        """How the worker is and what it has counted; None before it runs. Asked on the bridge's own loop."""
        return None if self._worker is None else self._worker.snapshot

    @property
    def leave_at(self) -> float:
        """When all is closed after a drain at the latest, in monotonic seconds; 0 before handlers have ended."""
        return 0.0 if self._worker is None else self._worker.leave_at

    def _stop(self, now: bool) -> None:
        self._stop_asked = True
        if self._worker is not None:
            self._worker.stop(now=now)

    def _new_source(self, queue: str) -> QueueSource:
        settings = self.config.queues[queue]
        return settings.create_source(queue)

    def _queue_name(self, queue: str | None) -> str:
        known = self.config.queues
        if queue is None:
            if len(known) == 1:
                return next(iter(known))
            queue = "default"
        if queue not in known:
            raise UnknownQueueError(queue, known)
        return queue

    async def _send_from_handler(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, queue: str, delay: float
    ) -> str:
        fields = fields_of_call(task, args, dict(kwargs), {})
        sender = self._sender(queue, delay) or await self._make_sender(queue)
        await self._sending(sender, [sender.encode_one(fields, delay)])
        return fields["id"]

    async def _send_all(self, messages: Iterable[MessageFields], queue: str | None, delay: float) -> list[str]:
        sender = self._sender(queue, delay) or await self._make_sender(queue)
        ready = sender.encode(messages, delay)
        await self._sending(sender, ready)
        return [message.message_id for message in ready]

    def _sender(self, queue: str | None, delay: float) -> Sender | None:
        """Return the sender of a queue that can delay for so long; None if nobody has sent to it yet."""
        name = self._queue_name(queue)
        if delay and (reason := self.config.why_too_long(name, delay)):
            raise ValueError(f"queue {name!r} can't delay a message by {format_duration(delay)}: {reason}")
        return self._senders.get(name)

    def _sending(self, sender: Sender, messages: Sequence[Outgoing]) -> Awaitable[None]:
        """Return what to await for messages to be sent, from whichever loop this one is."""
        if self._loop is asyncio.get_running_loop():
            return sender.send(messages)
        assert self._crossing is not None, "nobody has a sender before the bridge was entered"
        return self._crossing.send(sender, messages)

    async def _make_sender(self, queue: str | None) -> Sender:
        """Make the sender of a queue, on the bridge's own loop, or return the one that was made meanwhile."""
        if self._loop is None:
            raise BridgeStateError("send through a bridge after it was entered: async with QBridge(...) as bridge")
        if self._is_left:
            raise BridgeStateError("send through a bridge before it is left: inside async with QBridge(...) as bridge")
        if self._loop is not asyncio.get_running_loop():
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._make_sender(queue), self._loop))
        name = self._queue_name(queue)
        if name not in self._senders:
            self._senders[name] = Sender(
                name,
                self._new_source(name),
                codec=self.config.create_codec(name),
                max_message_size=self.config.queues[name].max_message_size,
            )
        return self._senders[name]
