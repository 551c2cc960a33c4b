"""Ledger: handlers that a test watches, and lets go on when it wants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from qbridge import HandlerRegistry
from tests.support.waiting import PATIENCE, Latch
from tests.support.worker_bench import WorkerBench

__all__ = ["Ledger", "logged", "names", "send", "told"]


class Ledger:
    """Handlers that note when they start and end, and wait in between if they are told to."""

    def __init__(self) -> None:
        self.registry = HandlerRegistry()
        self.started: list[str] = []
        self.ended: list[str] = []
        self.gates: dict[str, Latch] = {}
        self._changed = threading.Condition()
        self.registry.task(self.work)
        self.registry.task(self.hold)
        self.registry.task(self.block)

    @property
    def running(self) -> list[str]:
        """Who has started and not ended."""
        return [name for name in self.started if name not in self.ended]

    def gate(self, name: str) -> Latch:
        """Return the latch that lets a task go on."""
        with self._changed:
            return self.gates.setdefault(name, Latch())

    async def work(self, name: str) -> None:
        """Be done at once."""
        self._start(name)
        self._end(name)

    async def hold(self, name: str) -> None:
        """Wait at the gate."""
        self._start(name)
        try:
            await self.gate(name).wait()
        finally:
            self._end(name)

    async def block(self, name: str) -> None:
        """Block the loop at the gate."""
        self._start(name)
        self.gate(name).block()
        self._end(name)

    async def until_started(self, count: int) -> None:
        """Wait until that many have started."""
        await asyncio.to_thread(self._wait, count)

    def open(self, *names: str) -> None:
        """Let tasks go on."""
        for name in names:
            self.gate(name).set()

    def _wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.started) >= count, PATIENCE), self.started

    def _start(self, name: str) -> None:
        with self._changed:
            self.started.append(name)
            self._changed.notify_all()

    def _end(self, name: str) -> None:
        with self._changed:
            self.ended.append(name)
            self._changed.notify_all()


def names(count: int, prefix: str = "") -> list[str]:
    """Return names in order."""
    return [f"{prefix}{index:02}" for index in range(count)]


async def send(bench: WorkerBench, task: str, wanted: Sequence[str], queue: str = "q") -> None:
    """Send a task for each name."""
    await bench.send(task, *([name] for name in wanted), queue=queue)


def told(bench: WorkerBench, kind: type[Any]) -> list[Any]:
    """Return the events of a kind."""
    return [event for event in bench.told if isinstance(event, kind)]


def logged(caplog: pytest.LogCaptureFixture, text: str) -> list[Any]:
    """Return what was logged with this text."""
    return [record for record in caplog.records if record.getMessage() == text]
