"""Campaign: tasks flow through real processes and a real broker while faults hit them, one after another.

How to add a fault::

    def cut_the_cable(campaign: Campaign, incident: Incident) -> None:
        incident.reaches_all = True          # or: incident.processes.add(worker.pid), before the harm is done
        ...                                  # do it; wait, with a deadline, until it has provably happened
        ...                                  # undo it
        incident.is_over()                   # recovery is measured from here; left out: from the return

    FAULTS = [Fault(name="cable cut", inject=cut_the_cable, within=10)]

    @pytest.mark.timeout(campaign_timeout(FAULTS))
    def test_nothing_is_lost_though_cables_are_cut(chaos_broker: Broker, tmp_path: Path) -> None:
        with Campaign(tmp_path, chaos_broker, family="cables") as campaign:
            campaign.run(FAULTS)

`Campaign.run` injects each fault (the long form repeats all of them, shuffled), after each waits until work provably
resumes, lets all work come to its end, stops the workers in order, checks the books and fails if anything is wrong.
`campaign.pick()` gives a worker that runs, `campaign.replace(worker)` starts another one for one that was ended.
`campaign.send(...)` adds a message, with what may become of it (`outcomes={"crashed"}`); `handlers=` adds modules.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from qbridge import QBridge, QueueStats, SourceError, TaskMessage
from tests.support.chaos import failpoints, stalls
from tests.support.chaos.brokers import Broker
from tests.support.chaos.checker import Books, Finding, Left, Verdict, check
from tests.support.chaos.incidents import Fault, Incident
from tests.support.chaos.producer import producing, python_path
from tests.support.chaos.report import record
from tests.support.chaos.sendings import ENDS, SendingBook, SendingWriter
from tests.support.run_ledger import Ledger
from tests.support.worker_process import WorkerProcess

__all__ = ["Campaign", "campaign_timeout", "rounds"]

#: Messages that wait for a handler at most, and handlers that run at once in one worker.
AHEAD, CONCURRENCY = 120, 20

#: Seconds for anything that is waited for, on a busy machine.
PATIENCE = 30.0

#: The modules of handlers of every worker.
HANDLERS = ("tests.support.chaos.handlers",)


def rounds() -> int:
    """Return how often a campaign injects each fault: once, or as `QBRIDGE_CHAOS_ROUNDS` says in the long form."""
    return int(os.environ.get("QBRIDGE_CHAOS_ROUNDS", "4")) if os.environ.get("QBRIDGE_CHAOS") == "long" else 1


def campaign_timeout(faults: Sequence[Fault]) -> float:
    """Return the seconds after which a test that runs these faults hangs."""
    return 120 + rounds() * sum(fault.within + 10 for fault in faults)


class Campaign:
    """A producer, workers and a queue between them. As a context manager it starts them, and ends what still runs.

    Args:
        folder: An empty folder for the processes and their books.
        broker: Where the queue is.
        family: What the faults have in common; names the campaign in the report.
        workers: How many worker processes run.
        handlers: More modules of handlers.
        settings: More keys of the workers' YAML file.
        producer_queue: The queue's keys for the producer; None takes the workers' (a proxy may stand between these).
    """

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        *,
        family: str,
        workers: int = 2,
        handlers: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        producer_queue: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.family = family
        #: What the handlers tell.
        self.ledger = Ledger(folder)
        #: What was sent.
        self.book = SendingBook(folder)
        #: The workers that run, or should.
        self.workers: list[WorkerProcess] = []
        #: What was done so far.
        self.incidents: list[Incident] = []
        #: What the books say, once the campaign is over.
        self.verdict: Verdict | None = None
        self._count = workers
        self._producer_queue = producer_queue or broker.queue
        self._writer: SendingWriter | None = None
        self._stack = ExitStack()
        self._next = 0
        self._ended: list[WorkerProcess] = []
        self._wishes: dict[str, Any] = {
            "handlers": [*HANDLERS, *handlers],
            "queues": {"default": broker.queue},
            "loops": {"default": {"concurrency": CONCURRENCY}},
            # Nobody is taken for a killer only for being there when others are killed, again and again.
            "retry": {"max_attempts": 100, "base": 0.2},
            "max_crashes": 100,
            **(settings or {}),
        }

    def __enter__(self) -> Campaign:
        (self.folder / "qbridge.yaml").write_text(json.dumps(self._wishes))  # YAML includes JSON
        self._writer = SendingWriter(self.folder)
        self._stack.callback(self._writer.close)
        try:
            for _ in range(self._count):
                self._start_worker()
            self._producer = self._stack.enter_context(producing(self.folder, self._producer_queue, AHEAD))
            for worker in self.workers:
                worker.wait_until_ready()
            self.wait(lambda: self.ledger.count["end"] > CONCURRENCY, "tasks flow")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self, faults: Iterable[Fault], *, times: int | None = None) -> Verdict:
        """Inject the faults one after another, let everything come to its end, and check the books.

        Args:
            faults: Once each, in their order; in the long form `rounds()` times each, shuffled by a printed seed.
            times: How often each is injected instead.

        Raises:
            AssertionError: A fault could not be injected, or the books are not well.
        """
        sequence = list(faults) * (rounds() if times is None else times)
        seed = int(os.environ.get("QBRIDGE_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
        if len(sequence) > len({fault.name for fault in sequence}):
            random.Random(seed).shuffle(sequence)
            print(f"\n{self.broker.backend}, {self.family}: QBRIDGE_CHAOS_SEED={seed}")
        failure: AssertionError | None = None
        for fault in sequence:
            try:
                self.inject(fault)
            except AssertionError as exc:  # the books may tell why
                failure = exc
                break
        return self.finish(seed, failure)

    def inject(self, fault: Fault) -> Incident:
        """Inject one fault, and wait until work resumes after it; what doesn't resume is found by `finish`."""
        incident = Incident(fault=fault.name)
        self.incidents.append(incident)
        fault.inject(self, incident)
        if incident.over_at is None:
            incident.is_over()
        self._wait_until_resumed(incident, fault.within)
        return incident

    def finish(self, seed: int = 0, failure: AssertionError | None = None) -> Verdict:
        """Let everything come to its end, stop the workers in order, and check the books.

        Args:
            seed: What the order of the faults was made of, to be told.
            failure: Why the last fault could not be injected, if it couldn't.

        Raises:
            AssertionError: They are not well, a process did not end as it should, or there is a failure.
        """
        (self.folder / "stop").touch()
        assert 0 == self._producer.wait(PATIENCE), "the producer did not end well"
        deadline = time.monotonic() + PATIENCE
        while not self._is_all_done() and time.monotonic() < deadline:
            time.sleep(0.05)
        codes = self._stop_workers()
        stats, dead = asyncio.run(self._look_at_the_rest())
        left = Left(ready=stats.ready, delayed=stats.delayed, in_flight=stats.in_flight)
        incidents = [*self.incidents, *stalls.told(self.folder)]
        sendings, entries = self.book.read().sendings, self.ledger.read().entries
        self.verdict = check(
            Books(sendings=sendings, entries=entries, incidents=incidents, dead=dead, left=left),
            retrying=self.broker.retrying,
        )
        wrong = {kind: found[:5] for kind, found in self.verdict.findings.items() if found}
        if wrong or failure is not None:
            told = f"{self.broker.backend}, seed {seed}: {wrong}\n{self._tell(wrong)}"
            raise AssertionError(told) from failure
        record(self, self.verdict, seed)
        assert [0] * len(codes) == codes, f"a worker did not leave in order: {codes}\n{self._tell()}"
        return self.verdict

    def pick(self) -> WorkerProcess:
        """Return the worker that has run for longest, once it has run a task."""
        worker = self.workers[0]
        self.wait(lambda: any(e.process == worker.pid for e in reversed(self.ledger.entries)), "the worker runs tasks")
        return worker

    def replace(self, worker: WorkerProcess) -> WorkerProcess:
        """Start another worker in the place of one that has ended; doesn't wait until it is ready."""
        self.workers.remove(worker)
        self._ended.append(worker)
        return self._start_worker()

    def running_in(self, process: int) -> set[str]:
        """Return the ids of the messages that a process has started, and not ended."""
        running: set[str] = set()
        for entry in self.ledger.read().entries:
            if entry.process == process:
                (running.add if entry.kind == "start" else running.discard)(entry.message_id)
        return running

    def send(
        self, task: str, *args: Any, delay: float = 0.0, outcomes: Iterable[str] = ENDS, count: int = 1
    ) -> list[str]:
        """Send messages beside the producer's; return their ids when the broker has them.

        Args:
            task: The handler's name.
            args: Its arguments.
            delay: Seconds before they may start.
            outcomes: What may become of each: "end", or reason codes of dead letters.
            count: How many.
        """
        assert self._writer is not None, "enter the campaign first"
        messages = [TaskMessage(task=task, args=list(args)) for _ in range(count)]
        ids = [message.id for message in messages]
        self._writer.attempt(ids, delay=delay, outcomes=frozenset(outcomes))

        async def sending() -> None:
            async with QBridge(queues={"default": self._producer_queue}) as bridge:
                await bridge.send_many(messages, delay=delay)

        asyncio.run(sending())
        self._writer.accept(ids)
        return ids

    @contextmanager
    def producer_held(self) -> Iterator[None]:
        """Let the producer send nothing meanwhile; a send that is under way still ends."""
        hold = self.folder / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def wait_until_empty(self) -> None:
        """Wait until nothing is on the broker; for a campaign whose producer is held.

        Raises:
            AssertionError: It takes too long.
        """
        deadline = time.monotonic() + PATIENCE
        looks = 0
        while looks < 2:  # as a send may be under way at the first one
            assert time.monotonic() < deadline, f"the broker is not empty within {PATIENCE:g} s\n{self._tell()}"
            looks = looks + 1 if self._is_all_done() else 0
            time.sleep(0.1)

    def wait(self, enough: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
        """Wait until something is true; the books are read before each look.

        Raises:
            AssertionError: It takes too long.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.ledger.read()
            self.book.read()
            if enough():
                return
            assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}\n{self._tell()}"
            time.sleep(0.01)

    def _start_worker(self) -> WorkerProcess:
        environment = {
            **python_path(),
            failpoints.FOLDER: str(self.folder),
            failpoints.BACKEND: self.broker.backend,
        }
        worker = self._stack.enter_context(WorkerProcess(self.folder, environment=environment))
        self.workers.append(worker)
        return worker

    def _wait_until_resumed(self, incident: Incident, within: float) -> None:
        deadline = time.monotonic() + within
        over = incident.over_at or 0.0
        sendings, seen = self.book.sendings, 0
        while time.monotonic() < deadline:
            self.book.read()
            entries = self.ledger.read().entries
            for entry in entries[seen:]:
                sending = sendings.get(entry.message_id)
                if entry.kind == "end" and sending is not None and (sending.accepted_at or 0.0) > over:
                    incident.resumed_at = entry.at
                    return
            seen = max(0, len(entries) - 100)  # a handler may be faster than the line that says "accepted"
            time.sleep(0.01)

    def _is_all_done(self) -> bool:
        ended = self.ledger.read().ids("end")
        sendings = self.book.read().sendings
        if any(each not in ended for each in self.book.accepted if "end" in sendings[each].outcomes):
            return False
        try:
            stats = asyncio.run(self._stats())
        except SourceError:
            return False
        return not stats.ready + stats.delayed + stats.in_flight

    def _stop_workers(self) -> list[int]:
        for worker in self.workers:
            with suppress(AssertionError):  # one that never gets ready doesn't leave in order, which is found
                worker.wait_until_ready()  # before that it heeds no signal
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        return [worker.wait() for worker in self.workers]

    async def _stats(self) -> QueueStats:
        async with QBridge(queues={"default": self.broker.queue}) as bridge, bridge.source() as source:
            return await source.stats()

    async def _look_at_the_rest(self) -> tuple[QueueStats, dict[str, str]]:
        async with QBridge(queues={"default": self.broker.queue}) as bridge, bridge.source() as source:
            letters = await source.dead_letters(limit=1000)
            return await source.stats(), {json.loads(letter.body)["id"]: letter.reason for letter in letters}

    def _tell(self, wrong: Mapping[str, Sequence[Finding]] | None = None) -> str:
        about = {found.message_id for findings in (wrong or {}).values() for found in findings}
        told = [f"{incident}" for incident in self.incidents]
        told += [f"{self.book.sendings.get(each)}" for each in about]
        told += [f"{entry}" for entry in self.ledger.entries if entry.message_id in about]
        told += [f"ledger: {dict(self.ledger.count)}", f"accepted: {len(self.book.accepted)}"]
        for worker in (*self._ended, *self.workers):
            lines = [line for line in worker.log if "it is tried again" not in line or any(x in line for x in about)]
            told.append(f"worker {worker.pid}: {lines[-12:]}")
        return "\n".join(told)
