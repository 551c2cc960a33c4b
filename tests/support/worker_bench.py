"""WorkerBench: a worker on queues in memory, put together by hand, so that a test can see and disturb its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, Self

from qbridge import HandlerRegistry, Outgoing, RetryPolicy, TaskMessage
from qbridge.admission import Route
from qbridge.codec import Codec, JsonCodec
from qbridge.dispatcher import Dispatcher, DrainReport
from qbridge.event_hub import EventHub
from qbridge.events import Event, TaskFinished
from qbridge.execution import Job
from qbridge.intake import Intake
from qbridge.loops import LoopGroup, LoopThread
from qbridge.retry_budget import RetryBudget
from qbridge.watchdog import LoopLimits, Watchdog
from qbridge_memory import MemoryBroker, MemorySource
from tests.support.jobs import no_send
from tests.support.scripted_source import ScriptedSource
from tests.support.waiting import PATIENCE, Watch

__all__ = ["QUICK", "WorkerBench"]

#: Three attempts, almost at once.
QUICK = RetryPolicy(max_attempts=3, backoff="constant", base=0.01, jitter=False)


class WorkerBench:
    """One loop group and any number of queues. Leaving it drains what the test has not drained.

    Args:
        registry: The handlers.
        threads: Loop threads.
        concurrency: Of each of them.
        max_crashes: As for `Dispatcher`.
        receive_wait: Seconds that a claim waits for a message.
        clock: Tells the broker's time: what leases and delays are measured by.
        broker: Where its queues are; None makes a broker on that clock.
        limits: What its loops are held to; None watches over none of them.
    """

    def __init__(
        self,
        registry: HandlerRegistry,
        *,
        threads: int = 1,
        concurrency: int = 10,
        max_crashes: int = 3,
        receive_wait: float = 0.2,
        clock: Callable[[], float] = monotonic,
        broker: MemoryBroker | None = None,
        limits: LoopLimits | None = None,
    ) -> None:
        self.watch = Watch()
        self.broker = broker if broker is not None else MemoryBroker(clock=clock)
        self.told: list[Event] = []
        self.hub = EventHub()
        self.hub.subscribe(self._on_event)
        self._concurrency = concurrency
        self.threads: list[LoopThread] = []
        first = [self._make_thread(f"default-{index}") for index in range(threads)]
        self.group = LoopGroup("default", first, make=self._make_thread)
        self.dispatcher = Dispatcher(
            registry,
            {"default": self.group},
            retry=QUICK,
            max_crashes=max_crashes,
            events=self.hub,
            receive_wait=receive_wait,
        )
        self.sources: dict[str, ScriptedSource] = {}
        self.intakes: dict[str, Intake] = {}
        self.lives: dict[str, asyncio.Task[None]] = {}
        watched = {} if limits is None else {self.group: limits}
        self.watchdog = Watchdog(watched, keeper=self.dispatcher, events=self.hub)
        self._watching: asyncio.Task[None] | None = None
        self._producers: dict[str, MemorySource] = {}
        self._is_drained = False

    @property
    def finished(self) -> list[TaskFinished]:
        """What was told of deliveries that came to their end."""
        return [event for event in self.told if isinstance(event, TaskFinished)]

    async def add(
        self,
        name: str = "q",
        *,
        codec: Codec | None = None,
        lease: float = 30.0,
        max_message_size: int = 2**20,
        read_ahead: int = 0,
        new_source: Callable[..., ScriptedSource] = ScriptedSource,
        budget: RetryBudget | None = None,
        **settings: Any,
    ) -> ScriptedSource:
        """Add a queue, with more arguments of its intake; return the worker's source for it."""
        source = new_source(self.broker, name, lease=lease, changed=self.watch.changed)
        intake = Intake(name, source, consumer=self.dispatcher, events=self.hub, **settings)
        self.dispatcher.add(
            intake,
            Route(codec=codec or JsonCodec(), max_message_size=max_message_size, read_ahead=read_ahead),
            budget,
        )
        self.sources[name], self.intakes[name] = source, intake
        producer = self._producers[name] = MemorySource(name, broker=self.broker)
        await producer.open()
        return source

    async def start(self) -> None:
        """Begin to work."""
        for thread in self.threads:
            await thread.start()
        self._watching = asyncio.create_task(self.watchdog.run(), name="watchdog")
        for name, intake in self.intakes.items():
            self.lives[name] = asyncio.create_task(intake.run(), name=f"intake {name}")

    async def send(self, task: str, *argument_lists: Sequence[Any], queue: str = "q") -> None:
        """Send one task for each list of arguments."""
        messages = [TaskMessage(task=task, args=list(arguments)) for arguments in argument_lists]
        await self._producers[queue].send(
            [Outgoing(body=JsonCodec().encode(message), message_id=message.id) for message in messages]
        )

    async def send_bodies(self, *bodies: bytes, queue: str = "q") -> None:
        """Send bodies as they are; the broker calls them m0, m1 and so on."""
        await self._producers[queue].send(
            [Outgoing(body=body, message_id=f"m{index}") for index, body in enumerate(bodies)]
        )

    def producer(self, queue: str = "q") -> MemorySource:
        """Return an open source beside the worker's."""
        return self._producers[queue]

    async def until(self, predicate: Callable[[], object], timeout: float = PATIENCE) -> None:
        """Wait until something is true of the worker or its sources."""
        await self.watch.until(predicate, timeout)

    async def until_finished(self, count: int) -> None:
        """Wait until that many deliveries have come to their end, and none waits to be settled."""
        await self.until(
            lambda: len(self.finished) >= count and not any(intake.held for intake in self.intakes.values())
        )

    async def drain(
        self,
        *,
        grace: float = 0.0,
        cancel_grace: float = PATIENCE,
        flush: float = PATIENCE,
        hurry: asyncio.Event | None = None,
    ) -> DrainReport:
        """Drain the worker."""
        self._is_drained = True
        return await self.dispatcher.drain(grace=grace, cancel_grace=cancel_grace, flush=flush, hurry=hurry)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for source in self.sources.values():
            source.mend()
        if not self._is_drained:
            await self.drain(cancel_grace=1.0, flush=1.0)
        if self.lives:
            _, late = await asyncio.wait(self.lives.values(), timeout=PATIENCE)
            assert not late, f"intakes did not end: {late}"
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        for thread in self.threads:
            assert await thread.stop(PATIENCE) or thread.is_fenced, f"{thread.name} did not end"
        for producer in self._producers.values():
            await producer.close()

    def _make_thread(self, name: str) -> LoopThread:
        thread = LoopThread(
            name,
            concurrency=self._concurrency,
            worker_threads=4,
            implementation="asyncio",
            send=no_send,
            on_ended=self._on_ended,
        )
        self.threads.append(thread)
        return thread

    def _on_event(self, event: Event) -> None:
        self.told.append(event)
        self.watch.changed()

    def _on_ended(self, jobs: list[Job]) -> None:
        self.dispatcher.on_ended(jobs)
        self.watch.changed()
