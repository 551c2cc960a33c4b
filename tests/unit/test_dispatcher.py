"""Dispatcher: what is claimed, in which order it starts, and who runs alone."""

from __future__ import annotations

import asyncio
from collections import Counter

from qbridge.events import LeaseLost
from qbridge_memory import ManualClock
from tests.support.ledger import Ledger, names, send
from tests.support.waiting import PATIENCE, Latch
from tests.support.worker_bench import WorkerBench


async def in_flight(bench: WorkerBench) -> int:
    """Return how many messages the worker has claimed and not settled."""
    return sum([(await source.stats()).in_flight for source in bench.sources.values()])


async def test_what_can_t_start_is_not_claimed(ledger: Ledger) -> None:
    """With room for three, three are claimed; the next one when one has ended."""
    async with WorkerBench(ledger.registry, concurrency=3) as bench:
        source = await bench.add()
        await send(bench, "hold", names(10))
        await bench.start()

        await ledger.until_started(3)
        first = await in_flight(bench)
        ledger.open("01")
        await ledger.until_started(4)
        await bench.until(lambda: bench.intakes["q"].held == 3)
        second = await in_flight(bench)
        ledger.open(*names(10))
        await bench.until_finished(10)

        assert (3, 3) == (first, second)
        assert all(returned <= limit <= 3 for limit, returned in source.claims)
        assert names(10) == ledger.started


async def test_a_read_ahead_is_claimed_beyond_the_room(ledger: Ledger) -> None:
    """What is read ahead waits in the worker, is next in order, and is bounded."""
    async with WorkerBench(ledger.registry, concurrency=2) as bench:
        await bench.add(read_ahead=3)
        await send(bench, "hold", names(10))
        await bench.start()

        await ledger.until_started(2)
        await bench.until(lambda: bench.dispatcher.in_flight == 5)
        taken = await in_flight(bench)
        ledger.open(*names(10))
        await bench.until_finished(10)

        assert 5 == taken
        assert names(10) == ledger.started


async def test_queues_that_share_a_group_share_its_room(ledger: Ledger) -> None:
    """Two full queues together claim no more than can start, and each gets a part of it."""
    async with WorkerBench(ledger.registry, concurrency=4) as bench:
        for queue in ("a", "b"):
            await bench.add(queue)
            await send(bench, "hold", names(10, queue), queue)
        await bench.start()

        await ledger.until_started(4)
        taken = await in_flight(bench)
        held = [intake.held for intake in bench.intakes.values()]
        ledger.open(*names(10, "a"), *names(10, "b"))
        await bench.until_finished(20)

        assert (4, 4) == (taken, sum(held))
        assert min(held) > 0


async def test_an_idle_queue_takes_no_room_from_a_busy_one(ledger: Ledger) -> None:
    """While one queue is empty the other uses the whole group; the first message of the empty one is next."""
    async with WorkerBench(ledger.registry, concurrency=4) as bench:
        await bench.add("busy")
        await bench.add("idle")
        await bench.start()
        await bench.until(lambda: bench.intakes["idle"].is_idle)

        await send(bench, "hold", names(10), "busy")
        await ledger.until_started(4)
        running = list(ledger.running)
        await send(bench, "hold", ["rare"], "idle")
        await bench.until(lambda: bench.intakes["idle"].held)
        taken = await in_flight(bench)
        ledger.open(running[0])
        await ledger.until_started(5)
        fifth = ledger.started[4]
        ledger.open(*names(10), "rare")
        await bench.until_finished(11)

        assert names(4) == running
        assert 5 == taken  # one waits for its turn, and no more
        assert "rare" == fifth


async def test_queues_take_turns_in_a_group_with_one_place(ledger: Ledger) -> None:
    """With a concurrency of one neither of two full queues starves the other."""
    async with WorkerBench(ledger.registry, concurrency=1) as bench:
        for queue in ("a", "b"):
            await bench.add(queue)
            await send(bench, "work", names(10, queue), queue)
        await bench.start()

        await bench.until_finished(20)

        first_half = Counter(name[0] for name in ledger.started[:10])
        assert min(first_half["a"], first_half["b"]) >= 4
        for queue in ("a", "b"):
            assert names(10, queue) == [name for name in ledger.started if name[0] == queue]


async def test_tasks_start_in_the_order_in_which_they_were_claimed(ledger: Ledger) -> None:
    """However many claims it takes, one loop thread starts a queue's tasks first in, first out."""
    async with WorkerBench(ledger.registry, concurrency=7) as bench:
        source = await bench.add()
        await bench.start()
        for part in range(10):
            await send(bench, "work", names(20, f"{part}-"))

        await bench.until_finished(200)

        assert [name for part in range(10) for name in names(20, f"{part}-")] == ledger.started
        assert len(source.claims) > 20


async def test_threads_share_the_work(ledger: Ledger) -> None:
    """Two loop threads run together what one of them could not."""
    async with WorkerBench(ledger.registry, threads=2, concurrency=2) as bench:
        await bench.add()
        await send(bench, "hold", names(6))
        await bench.start()

        await ledger.until_started(4)
        loads = [thread.in_flight for thread in bench.threads]
        ledger.open(*names(6))
        await bench.until_finished(6)

        assert [2, 2] == loads


async def test_a_blocking_handler_costs_no_lease(ledger: Ledger) -> None:
    """A handler may block its loop for several leases: the worker goes on to renew them, and it runs once."""
    async with WorkerBench(ledger.registry) as bench:
        source = await bench.add(lease=0.4)
        await send(bench, "block", ["slow"])
        await bench.start()
        await ledger.until_started(1)

        await bench.until(lambda: source.calls["keep_alive"] >= 9)  # three leases
        stats = await bench.producer().stats()
        ledger.open("slow")
        await bench.until_finished(1)

        assert (0, 1) == (stats.ready, stats.in_flight)
        assert ["slow"] == ledger.started
        assert [("done", 1)] == [(event.outcome, event.attempt) for event in bench.finished]


async def test_a_lost_lease_cancels_its_handler(ledger: Ledger) -> None:
    """A handler whose message is another worker's is cancelled; nothing is settled, and its place is free again."""
    async with WorkerBench(ledger.registry, concurrency=1) as bench:
        source = await bench.add(lease=0.3)
        await send(bench, "hold", ["lost"])
        await bench.start()
        await ledger.until_started(1)
        source.forget_claims()

        await bench.until(lambda: bench.finished)

        assert ["lost"] == [event.outcome for event in bench.finished[:1]]
        assert ["hold"] == [event.task for event in bench.told if isinstance(event, LeaseLost)][:1]
        assert ([], "lost") == (source.settled, ledger.ended[0])


async def test_a_lease_lost_before_the_start_prevents_it(ledger: Ledger) -> None:
    """A message that was read ahead and lost meanwhile is not run here."""
    async with WorkerBench(ledger.registry, concurrency=1) as bench:
        source = await bench.add(lease=30.0, read_ahead=1)
        await send(bench, "hold", names(2))
        await bench.start()
        await ledger.until_started(1)
        await bench.until(lambda: bench.intakes["q"].held == 2)
        second = bench.intakes["q"].running_jobs()[1]

        bench.intakes["q"].forget(second.delivery)
        bench.dispatcher.lose(second)
        ledger.open("00")
        await bench.until(lambda: len(bench.finished) == 2)

        assert (["00"], ["done", "lost"]) == (ledger.started, [event.outcome for event in bench.finished])
        assert ["ack"] == [settlement.action for settlement in source.settled]


def claimed(bench: WorkerBench) -> int:
    """Return how often the worker has asked for messages."""
    return sum(source.calls["receive"] for source in bench.sources.values())


async def crash(bench: WorkerBench, clock: ManualClock, times: int) -> None:
    """Let workers claim all there is and die, that often."""
    for _ in range(times):
        assert await bench.producer().receive(100, 0.0)
        clock.advance(31.0)


async def test_a_suspect_runs_alone(ledger: Ledger) -> None:
    """A message that is one crash away from the limit runs while nothing else does, and nothing else is claimed."""
    clock = ManualClock()
    async with WorkerBench(ledger.registry, clock=clock) as bench:
        await bench.add()
        await bench.add("other")
        await send(bench, "hold", ["suspect0", "suspect1"])
        await crash(bench, clock, 2)
        await send(bench, "hold", names(3))
        await bench.start()

        alone: list[tuple[list[str], int]] = []
        for suspect in ("suspect0", "suspect1"):
            await ledger.until_started(len(alone) + 1)
            await bench.until(lambda: not any(source.is_receiving for source in bench.sources.values()))
            claims = claimed(bench)
            await send(bench, "hold", [f"after {suspect}"], "other")
            await asyncio.sleep(0.25)  # longer than a claim waits
            alone.append((list(ledger.running), claimed(bench) - claims))
            ledger.open(suspect)
        await ledger.until_started(7)
        ledger.open(*names(3), "after suspect0", "after suspect1")
        await bench.until_finished(7)

        assert [(["suspect0"], 0), (["suspect1"], 0)] == alone
        assert {"done"} == {event.outcome for event in bench.finished}


async def test_a_suspect_waits_for_what_runs(ledger: Ledger) -> None:
    """Tasks that were running when a suspect is claimed end first; until then nothing else starts."""
    clock = ManualClock()
    async with WorkerBench(ledger.registry, clock=clock) as bench:
        await bench.add()
        await send(bench, "hold", ["suspect"])
        await crash(bench, clock, 2)
        [taken] = await bench.producer().receive(1, 0.0)  # so that it comes later
        await send(bench, "hold", ["first"])
        await bench.start()
        await ledger.until_started(1)

        await bench.producer().settle([taken.release()])
        await bench.until(lambda: bench.dispatcher.in_flight == 2)
        await asyncio.sleep(0.05)  # time enough to start what must wait
        before = list(ledger.running)
        ledger.open("first")
        await ledger.until_started(2)
        after = list(ledger.running)
        ledger.open("suspect")
        await bench.until_finished(2)

        assert (["first"], ["suspect"]) == (before, after)


async def test_a_suspect_starts_when_the_broker_has_the_others_back(ledger: Ledger) -> None:
    """What was claimed together with it goes back first, and can't be taken along; later claims are small."""
    clock, gate = ManualClock(), Latch()
    async with WorkerBench(ledger.registry, clock=clock) as bench:
        source = await bench.add()
        await send(bench, "hold", ["suspect0", "suspect1"])
        await crash(bench, clock, 2)
        await send(bench, "work", names(3))
        source.script("settle", gate)
        await bench.start()

        await bench.until(lambda: source.calls["settle"])
        await asyncio.sleep(0.05)  # time enough to start what must wait
        before = list(ledger.started)
        gate.set()
        await ledger.until_started(1)
        held = await in_flight(bench)
        ledger.open("suspect0", "suspect1")
        await bench.until(lambda: len(ledger.ended) == 5)

        assert ([], ["suspect0"], 1) == (before, ledger.started[:1], held)
        assert [(10, 5), (1, 1), (1, 1)] == source.claims[:3]
        assert {1, 3} == {event.attempt for event in bench.finished}


async def test_what_was_read_ahead_goes_back_before_a_suspect(ledger: Ledger) -> None:
    """Messages that wait in the worker when a suspect comes are not held beside it."""
    clock = ManualClock()
    async with WorkerBench(ledger.registry, clock=clock, concurrency=1) as bench:
        await bench.add(read_ahead=3)
        await send(bench, "hold", ["suspect"])
        await crash(bench, clock, 2)
        [taken] = await bench.producer().receive(1, 0.0)  # so that it comes later
        await send(bench, "hold", names(3))
        await bench.start()
        await ledger.until_started(1)
        await bench.until(lambda: bench.intakes["q"].held == 3)

        await bench.producer().settle([taken.release()])
        await bench.until(lambda: bench.intakes["q"].held == 2)
        ledger.open("00")
        await ledger.until_started(2)
        second, held = ledger.started[1], await in_flight(bench)
        ledger.open("suspect", *names(3))
        await bench.until(lambda: len(ledger.ended) == 4)

        assert ("suspect", 1) == (second, held)
        assert ["00", "suspect", "01", "02"] == ledger.started


async def test_a_suspect_that_waits_is_released_by_a_drain(ledger: Ledger) -> None:
    """A worker that leaves before the suspect's turn has come puts it back untried."""
    clock = ManualClock()
    async with WorkerBench(ledger.registry, clock=clock) as bench:
        await bench.add()
        await send(bench, "hold", ["suspect"])
        await crash(bench, clock, 2)
        [taken] = await bench.producer().receive(1, 0.0)  # so that it comes later
        await send(bench, "hold", ["first"])
        await bench.start()
        await ledger.until_started(1)
        await bench.producer().settle([taken.release()])
        await bench.until(lambda: bench.intakes["q"].held == 2)

        report = await bench.drain()

        assert (2, 1, 0) == (report.released, report.cancelled, report.abandoned)
        [first, second] = await bench.producer().receive(10, 0.0)
        assert [(3, 2), (1, 0)] == [(found.attempt, found.crashes) for found in (first, second)]


async def test_messages_that_never_crashed_are_no_suspects(ledger: Ledger) -> None:
    """Even if the first crash is one too many, messages run beside one another until they have crashed."""
    async with WorkerBench(ledger.registry, max_crashes=1) as bench:
        await bench.add()
        await send(bench, "hold", names(3))
        await bench.start()

        await ledger.until_started(3)
        running = list(ledger.running)
        ledger.open(*names(3))
        await bench.until_finished(3)

        assert names(3) == running


async def test_finding_nothing_is_told_when_nothing_runs(ledger: Ledger) -> None:
    """Who waits for an empty queue is woken by a claim that found nothing, but not while a task runs."""
    async with WorkerBench(ledger.registry, receive_wait=0.02) as bench:
        source = await bench.add()
        await send(bench, "hold", ["busy"])
        await bench.start()
        await ledger.until_started(1)
        bench.dispatcher.found_nothing.clear()
        claims = source.calls["receive"]

        await bench.until(lambda: source.calls["receive"] > claims + 3)
        while_running = bench.dispatcher.found_nothing.is_set()
        ledger.open("busy")
        async with asyncio.timeout(PATIENCE):
            await bench.dispatcher.found_nothing.wait()

        assert not while_running
