"""Whatever handlers do, whenever the broker fails and the worker leaves: every message comes to its one end."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbridge import Action, HandlerRegistry, Outgoing, Reject, Retry, Settlement, TaskMessage, intake
from qbridge.codec import JsonCodec
from qbridge_memory import MemoryBroker, MemorySource
from tests.support.intake_bench import GONE
from tests.support.scripted_source import Unanswered
from tests.support.worker_bench import WorkerBench


@dataclass(frozen=True)
class Fate:
    """How often a message is run, and what it becomes: "" if it is acknowledged, else the reason of a dead letter."""

    runs: int
    reason: str = ""


FATES = {
    "succeed": Fate(1),
    "succeed_in_thread": Fate(1),
    "succeed_late": Fate(1),
    "succeed_again": Fate(2),
    "fail": Fate(3, "exhausted"),
    "fail_in_thread": Fate(3, "exhausted"),
    "leave": Fate(3, "exhausted"),
    "cancel_oneself": Fate(3, "exhausted"),
    "put_off": Fate(3, "exhausted"),
    "reject": Fate(1, "rejected"),
    "unknown": Fate(0, "unknown_task"),
    "bad arguments": Fate(0, "invalid"),
    "bad bytes": Fate(0, "undecodable"),
}

FAULTS = st.sampled_from([None, None, GONE, ConnectionError("a fault of the backend itself")])


@dataclass(frozen=True)
class Plan:
    """What is sent, how the broker fails, how large the worker is, and after how many ends it leaves."""

    kinds: list[str]
    receives: list[Exception | None]
    settles: list[Exception | None]
    opens: list[Exception | None]
    threads: int
    concurrency: int
    read_ahead: int
    leaves_after: int


PLANS = st.builds(
    Plan,
    kinds=st.lists(st.sampled_from(sorted(FATES)), min_size=1, max_size=15),
    receives=st.lists(FAULTS, max_size=4),
    settles=st.lists(FAULTS | st.just(Unanswered(GONE)), max_size=5),
    opens=st.lists(FAULTS, max_size=2),
    threads=st.integers(1, 2),
    concurrency=st.integers(1, 4),
    read_ahead=st.integers(0, 3),
    leaves_after=st.integers(0, 20),
)


def handlers(runs: Counter[str]) -> HandlerRegistry:
    """Return a handler for each fate, each of which counts its runs."""
    registry = HandlerRegistry()

    @registry.task
    async def succeed(name: str) -> None:
        runs[name] += 1

    @registry.task
    def succeed_in_thread(name: str) -> None:
        runs[name] += 1

    @registry.task
    async def succeed_late(name: str) -> None:
        runs[name] += 1
        await asyncio.sleep(0.005)

    @registry.task
    async def succeed_again(name: str) -> None:
        runs[name] += 1
        if runs[name] == 1:
            raise ValueError("not yet")

    @registry.task
    async def fail(name: str) -> None:
        runs[name] += 1
        raise ValueError("never")

    @registry.task
    def fail_in_thread(name: str) -> None:
        runs[name] += 1
        raise ValueError("never")

    @registry.task
    async def leave(name: str) -> None:
        runs[name] += 1
        raise SystemExit

    @registry.task
    async def cancel_oneself(name: str) -> None:
        runs[name] += 1
        raise asyncio.CancelledError

    @registry.task
    async def put_off(name: str) -> None:
        runs[name] += 1
        raise Retry(delay=0.001)

    @registry.task
    async def reject(name: str) -> None:
        runs[name] += 1
        raise Reject("no")

    return registry


def outgoing(name: str, kind: str) -> Outgoing:
    """Return the message of that kind."""
    if kind == "bad bytes":
        return Outgoing(body=b"\x00", message_id=name)
    task = TaskMessage(id=name, task="succeed", args=[]) if kind == "bad arguments" else None
    return Outgoing(body=JsonCodec().encode(task or TaskMessage(id=name, task=kind, args=[name])), message_id=name)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages are over within milliseconds."""
    monkeypatch.setattr(intake, "RECONNECT_BASE", 0.001)


@settings(max_examples=40, deadline=None)
@given(plan=PLANS)
async def test_every_message_comes_to_its_one_end(plan: Plan) -> None:
    """A worker that meets faults and leaves early, and one that does the rest, settle each message once."""
    names = {f"m{index}": kind for index, kind in enumerate(plan.kinds)}
    broker = MemoryBroker()
    producer = MemorySource("q", broker=broker)
    await producer.open()
    await producer.send([outgoing(name, kind) for name, kind in names.items()])
    runs: Counter[str] = Counter()
    settled: list[Settlement] = []
    size = {"threads": plan.threads, "concurrency": plan.concurrency, "receive_wait": 0.02}

    async with WorkerBench(handlers(runs), broker=broker, **size) as bench:  # type: ignore[arg-type]  # numbers by name
        source = await bench.add(read_ahead=plan.read_ahead)
        source.script("open", *plan.opens)
        source.script("receive", *plan.receives)
        source.script("settle", *plan.settles)
        await bench.start()
        ends = sum(max(FATES[kind].runs, 3 if kind == "unknown" else 1) for kind in plan.kinds)
        await bench.until(lambda: len(bench.finished) >= min(plan.leaves_after, ends))
        report = await bench.drain(grace=0.0)
        settled += source.settled
        in_flight = (await producer.stats()).in_flight
    after_first = Counter(runs)

    async with WorkerBench(handlers(runs), broker=broker, **size) as bench:  # type: ignore[arg-type]  # numbers by name
        source = await bench.add()
        await bench.start()
        ended = {action for action in Action if action in (Action.ACK, Action.DEAD_LETTER)}
        await bench.until(
            lambda: len([done for done in [*settled, *source.settled] if done.action in ended]) == len(names)
        )
        settled += source.settled
        stats = await producer.stats()
        dead = await producer.dead_letters()

    assert (0, 0) == (in_flight, report.abandoned)
    assert (0, 0, 0, len(dead)) == (stats.ready, stats.delayed, stats.in_flight, stats.dead)
    assert {name: FATES[kind].reason for name, kind in names.items() if FATES[kind].reason} == {
        letter.message_id: letter.reason for letter in dead
    }
    assert {name: 1 for name, kind in names.items() if not FATES[kind].reason} == Counter(
        done.delivery.message_id for done in settled if done.action is Action.ACK
    )
    assert len(settled) == len({done.delivery.receipt for done in settled})
    # What was cut short by the drain runs once more; nothing else does.
    cut_short = sum(runs.values()) - sum(FATES[kind].runs for kind in names.values())
    assert 0 <= cut_short <= report.cancelled
    assert all(runs[name] >= FATES[kind].runs for name, kind in names.items())
    assert after_first <= runs
