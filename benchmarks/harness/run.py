"""One run: a system's variant on an empty broker, with its worker, its sender and the record of what ran."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.brokers import Brokers
from benchmarks.harness.processes import DidNotFinishError, Running, finish
from benchmarks.harness.recorder import Record
from benchmarks.harness.system import Setting, System, Variant
from benchmarks.harness.venvs import ROOT

__all__ = ["Run", "Work", "base_environment", "new_run"]

#: Seconds between two looks at the record.
TICK = 0.02

#: Seconds in which tasks may be run again after all ran once, before duplicates are counted.
SETTLE = 0.1


@dataclass(frozen=True)
class Work:
    """Tasks to send.

    Args:
        task: Name of the handler.
        count: How many.
        first: Number of the first one.
        size: Characters of the text of `payload`.
        seconds: Processor time of `crunch`.
    """

    task: str
    count: int
    first: int = 0
    size: int = 0
    seconds: float = 0.0


@dataclass
class Run:
    """A variant, set up to be measured.

    Args:
        system: The system.
        variant: The variant.
        setting: What its commands are made for.
        record: What its handlers write.
        workload: Name of the workload.
        longest: Seconds that each wait may take.
    """

    system: System
    variant: Variant
    setting: Setting
    record: Record
    workload: str
    longest: float
    _stack: ExitStack = field(default_factory=ExitStack)

    def send(self, mode: str, work: Work) -> dict[str, Any]:
        """Send tasks from a process of the system's own, with its library; return what it measured.

        Raises:
            DidNotFinishError: It failed, or took too long.
        """
        printed = finish(
            self._sender(mode, work),
            environment=self._environment(),
            folder=ROOT,
            log=self.setting.folder / "sender.log",
            longest=self.longest,
        )
        found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return found

    @contextmanager
    def sending(self, mode: str, work: Work) -> Iterator[Running]:
        """Send tasks while something else is done."""
        with Running(
            self._sender(mode, work),
            environment=self._environment(),
            folder=ROOT,
            log=self.setting.folder / f"sender-{work.first}.log",
        ) as sender:
            yield sender

    @contextmanager
    def worker(self, work: Work | None = None) -> Iterator[list[Running]]:
        """Run the system's worker: its own command, several times if it has no command for several processes.

        Args:
            work: What the worker sends, if no other process can.
        """
        command = self.variant.worker(self.setting)
        environment = self._environment() | dict(command.environment)
        if self.variant.sends_itself:
            work = work or Work("noop", 0)
            environment |= {
                "BENCH_TASK": work.task,
                "BENCH_TASKS": str(work.count),
                "BENCH_BYTES": str(work.size),
            }
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    Running(
                        command.argv,
                        environment=environment,
                        folder=ROOT,
                        log=self.setting.folder / f"worker-{number}.log",
                    )
                )
                for number in range(1 if self.variant.forks else self.setting.processes)
            ]

    def prefill(self, work: Work) -> None:
        """Send tasks before the worker starts; nothing where the worker sends them itself."""
        if not self.variant.sends_itself:
            self.send("prefill", work)

    def wait_for(self, work: Work, workers: list[Running], *, longest: float | None = None) -> None:
        """Wait until each task has run.

        Raises:
            DidNotFinishError: A worker ended, or it took too long.
        """
        longest = longest or self.longest
        deadline = time.monotonic() + longest
        while (done := self.record.distinct(work.first, work.first + work.count)) < work.count:
            _see_that_all_run(workers)
            if time.monotonic() > deadline:
                reason = f"{done:,} of {work.count:,} {work.task} tasks had run after {longest:g} s"
                raise DidNotFinishError(reason, workers[0].last_lines())
            time.sleep(TICK)

    def drained(self, work: Work, workers: list[Running]) -> dict[str, float]:
        """Wait until each task has run; return how fast they ran, and how many runs were repetitions.

        Processor time is that of the worker's processes after they ran their first tasks, so without their start.

        Raises:
            DidNotFinishError: A worker ended, or it took too long.
        """
        deadline = time.monotonic() + self.longest
        while not self.record.span()[0] and time.monotonic() < deadline:
            _see_that_all_run(workers)
            time.sleep(TICK)
        used = sum(worker.processor_time() for worker in workers)
        done = self.record.distinct(work.first, work.first + work.count)
        self.wait_for(work, workers)
        used = sum(worker.processor_time() for worker in workers) - used
        time.sleep(SETTLE)
        first, last = self.record.span()
        return {
            "rate": (work.count - 1) / ((last - first) / 1e9),
            "seconds": (last - first) / 1e9,
            "processor_us": used / max(1, work.count - done) * 1e6,
            "repeated": self.record.repeated(),
        }

    def _sender(self, mode: str, work: Work) -> list[str]:
        return [
            *(str(self.setting.python), "-m", "benchmarks.harness.sending", self.system.app),
            *(mode, work.task, str(work.count), "--first", str(work.first)),
            *("--bytes", str(work.size), "--seconds", str(work.seconds)),
        ]

    def _environment(self) -> dict[str, str]:
        return base_environment(self.setting.url, self.setting.folder) | {
            "BENCH_RECORD": str(self.setting.folder / "record"),
            "BENCH_VARIANT": self.variant.key,
            "BENCH_BROKER": self.variant.broker,
            "BENCH_CONCURRENCY": str(self.setting.concurrency),
            "BENCH_PROCESSES": str(self.setting.processes),
            "BENCH_WORKLOAD": self.workload,
        }


def _see_that_all_run(workers: list[Running]) -> None:
    for worker in workers:
        if not worker.is_running:
            raise DidNotFinishError(f"a worker ended with exit code {worker.exit_code}", worker.last_lines())


def base_environment(url: str, folder: Path) -> dict[str, str]:
    """Return the environment of a process that speaks to this broker: this one's, without what configures qbridge."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QBRIDGE_", "PYTHON", "BENCH_"))}
    return kept | {"PYTHONPATH": str(ROOT), "BENCH_URL": url, "BENCH_FOLDER": str(folder)}


@contextmanager
def new_run(
    system: System,
    variant: Variant,
    workload: str,
    *,
    python: Path,
    brokers: Brokers,
    tasks: int,
    processes: int = 1,
    longest: float = 60.0,
) -> Iterator[Run]:
    """Set a variant up on an empty broker, and clean up afterwards.

    Args:
        system: The system.
        variant: The variant.
        workload: Name of the workload.
        python: The interpreter of the system's environment.
        brokers: Where the broker comes from.
        tasks: How many tasks the record has room for.
        processes: Worker processes.
        longest: Seconds that each wait may take.
    """
    with tempfile.TemporaryDirectory(prefix="qbridge-bench-") as name, brokers.fresh(variant.broker) as url:
        folder = Path(name)
        setting = Setting(python, url, variant.concurrency, processes, folder, workload)
        record = Record(folder / "record", tasks=tasks)
        try:
            if variant.prepare is not None:
                variant.prepare(setting)
            yield Run(system, variant, setting, record, workload, longest)
        finally:
            record.close()
