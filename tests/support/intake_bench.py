"""IntakeBench: an intake over a scripted source, and the other side that it claims for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from qbridge import Delivery, Outgoing, SourceUnavailable
from qbridge.event_hub import EventHub
from qbridge.events import Event
from qbridge.execution import Job
from qbridge.intake import Intake
from qbridge_memory import MemoryBroker, MemorySource
from tests.support.jobs import make_job
from tests.support.scripted_source import ScriptedSource
from tests.support.waiting import PATIENCE, Watch

__all__ = ["GONE", "IntakeBench", "Sink", "log_lines"]

#: What a source raises whose broker can't be reached.
GONE = SourceUnavailable("connection refused")


def _handler() -> None:
    """Stand for work that this test doesn't do."""


class Sink:
    """The other side of an intake: gives it room, keeps what it claims."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.room = 10
        self.wait = 0.1
        self.gives_room = asyncio.Event()
        self.gives_room.set()
        self.deliveries: list[Delivery] = []
        self.lost: list[Job] = []
        self.overdue: list[Job] = []

    async def claimable(self, intake: Intake) -> tuple[int, float]:
        """Give the same room each time, once there is any."""
        await self.gives_room.wait()
        return self.room, self.wait

    def accept(self, intake: Intake, deliveries: Sequence[Delivery]) -> None:
        """Keep what was claimed, under a job for each."""
        for delivery in deliveries:
            job = make_job(_handler)
            job.delivery = delivery
            intake.hold(delivery, job)
        self.deliveries += deliveries
        self.watch.changed()

    def interrupt(self, intake: Intake) -> None:
        """Let whoever waits for room find some."""
        self.gives_room.set()

    def on_settled(self) -> None:
        """Do nothing, as nobody waits for it."""

    def lose(self, job: Job) -> None:
        """Note a lost lease."""
        self.lost.append(job)
        self.watch.changed()

    def let_go(self, job: Job, ran: float) -> None:
        """Note a handler that ignores its time limit, and settle its message as failed."""
        self.overdue.append(job)
        self.watch.changed()


class IntakeBench:
    """An intake over a scripted source, with a producer beside it.

    Args:
        lease: Seconds.
        source: Makes the source.
        **settings: More arguments of the intake.
    """

    def __init__(
        self, *, lease: float = 30.0, source: Callable[..., ScriptedSource] = ScriptedSource, **settings: Any
    ) -> None:
        broker = MemoryBroker()
        self.sink = Sink()
        self.watch = self.sink.watch
        self.source = source(broker, lease=lease, changed=self.watch.changed)
        self.producer = MemorySource("q", broker=broker)
        self.told: list[Event] = []
        hub = EventHub()
        hub.subscribe(self._on_event)
        self.intake = Intake("q", self.source, consumer=self.sink, events=hub, **settings)
        self.life: asyncio.Task[None] | None = None

    def _on_event(self, event: Event) -> None:
        self.told.append(event)
        self.watch.changed()

    async def start(self) -> None:
        """Begin to live."""
        await self.producer.open()
        self.life = asyncio.create_task(self.intake.run())

    async def claim(self, count: int) -> list[Delivery]:
        """Send messages and wait until they are claimed."""
        have = len(self.sink.deliveries)
        await self.producer.send([Outgoing(body=b"", message_id=f"m{have + index}") for index in range(count)])
        await self.watch.until(lambda: len(self.sink.deliveries) == have + count)
        return self.sink.deliveries[have:]

    async def end(self) -> None:
        """Mend what is broken, and end."""
        self.source.mend()
        self.intake.stop_claiming()
        await self.intake.finish(0.1)
        if self.life is not None:
            done, _ = await asyncio.wait([self.life], timeout=PATIENCE)
            assert done, "the intake did not end"

    @property
    def settled(self) -> list[str]:
        """The ids of the messages that the broker has settled, in order."""
        return [settlement.delivery.message_id for settlement in self.source.settled]


def log_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the intake has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "qbridge.intake"]
