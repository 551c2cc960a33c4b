"""RetryBudget: what may fail before the claims of a queue are slowed, and how they are."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbridge import HandlerRegistry, RetryPolicy
from qbridge.retry_budget import RetryBudget
from tests.support.ledger import Ledger, names, send
from tests.support.waiting import Latch
from tests.support.worker_bench import WorkerBench

RATIOS = st.floats(0.01, 10)
RESERVES = st.integers(1, 1000)
COUNTS = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=50)


@settings(deadline=None)
@given(ratio=st.floats(0, 10), reserve=RESERVES, counts=COUNTS)
def test_what_is_left_stays_within_its_bounds(ratio: float, reserve: int, counts: list[tuple[int, int]]) -> None:
    """Whatever happens, between nothing and the reserve is left: there is no debt, and no more than can be saved up."""
    budget = RetryBudget(ratio=ratio, reserve=reserve)

    left = [budget.left]
    for succeeded, failed in counts:
        budget.count(succeeded=succeeded, failed=failed)
        left.append(budget.left)

    assert all(0 <= amount <= reserve for amount in left)


@settings(deadline=None)
@given(reserve=RESERVES, counts=COUNTS)
def test_a_ratio_of_nothing_turns_it_off(reserve: int, counts: list[tuple[int, int]]) -> None:
    """However much fails, it is never spent."""
    budget = RetryBudget(ratio=0, reserve=reserve)

    for succeeded, failed in counts:
        budget.count(succeeded=succeeded, failed=failed)

    assert not budget.is_spent


@settings(deadline=None)
@given(ratio=RATIOS, reserve=st.integers(10, 1000), rounds=st.integers(1, 300))
def test_what_is_paid_for_is_never_slowed(ratio: float, reserve: int, rounds: int) -> None:
    """As long as successes earn what the failures spend, however long that goes on, the budget isn't spent."""
    budget = RetryBudget(ratio=ratio, reserve=reserve)
    successes = int(1 / ratio) + 1

    for _ in range(rounds):
        budget.count(succeeded=successes, failed=1)

    assert not budget.is_spent


def test_one_failure_in_ten_is_never_slowed() -> None:
    """With the default ratio of 0.2, work of which a tenth fails goes on at full speed for ever."""
    budget = RetryBudget(ratio=0.2, reserve=1000)

    for _ in range(100_000):
        budget.count(succeeded=9, failed=1)

    assert (1000.0 - 1.0 <= budget.left, False) == (True, budget.is_spent)


@settings(deadline=None)
@given(ratio=RATIOS, reserve=RESERVES)
def test_failing_alone_spends_it(ratio: float, reserve: int) -> None:
    """The reserve is how many failures in a row it affords."""
    budget = RetryBudget(ratio=ratio, reserve=reserve)

    spent = []
    for _ in range(reserve):
        budget.count(succeeded=0, failed=1)
        spent.append(budget.is_spent)

    assert [False] * (reserve - 1) + [True] == spent


@settings(deadline=None)
@given(ratio=RATIOS, reserve=RESERVES)
def test_success_always_brings_it_back(ratio: float, reserve: int) -> None:
    """A budget that is spent recovers when enough succeeds: a tenth of the reserve, and at least one."""
    budget = RetryBudget(ratio=ratio, reserve=reserve)
    budget.count(succeeded=0, failed=reserve)
    needed = max(1.0, reserve / 10)

    budget.count(succeeded=int(0.9 * needed / ratio), failed=0)
    early = budget.is_spent
    budget.count(succeeded=int(needed / ratio) + 1, failed=0)

    assert (True, False) == (early, budget.is_spent)


@settings(deadline=None)
@given(ratio=RATIOS, reserve=RESERVES, successes=st.lists(st.integers(0, 50), max_size=20))
def test_successes_may_be_counted_late(ratio: float, reserve: int, successes: list[int]) -> None:
    """Between two failures it makes no difference whether successes are counted one by one or together."""
    one_by_one, together = (RetryBudget(ratio=ratio, reserve=reserve) for _ in range(2))

    for count in successes:
        for _ in range(count):
            one_by_one.count(succeeded=1, failed=0)
        one_by_one.count(succeeded=0, failed=1)
        together.count(succeeded=count, failed=1)

    assert together.left == pytest.approx(one_by_one.left)


async def test_a_queue_that_fails_is_slowed_to_a_tenth_and_recovers(caplog: pytest.LogCaptureFixture) -> None:
    """One warning when it begins, one line when it ends; the other queue of the group has all the room meanwhile."""
    caplog.set_level(logging.INFO)
    registry = HandlerRegistry()
    ledger = Ledger()
    registry.task(ledger.hold)
    registry.task(ledger.work)

    @registry.task(retry=RetryPolicy(max_attempts=1))
    async def fail(name: str) -> None:
        raise ValueError(name)

    async with WorkerBench(registry, concurrency=20, receive_wait=0.05) as bench:
        await bench.add(budget=RetryBudget(ratio=1.0, reserve=5))
        await bench.add("healthy", budget=RetryBudget(ratio=1.0, reserve=5))
        await send(bench, "fail", names(5))
        await bench.start()
        await bench.until_finished(5)
        await send(bench, "hold", names(10))
        await ledger.until_started(2)
        await send(bench, "hold", names(15, "healthy"), queue="healthy")
        await ledger.until_started(17)
        slowed = len([name for name in ledger.running if not name.startswith("healthy")])

        ledger.open(*names(10), *names(15, "healthy"))
        await bench.until_finished(5 + 25)
        await send(bench, "hold", names(10, "again"))
        await ledger.until_started(25 + 10)
        ledger.open(*names(10, "again"))
        await bench.until_finished(5 + 25 + 10)
        counts = bench.intakes["q"].counts, bench.intakes["healthy"].counts

    assert (2, 1, 0) == (slowed, counts[0].slowed, counts[1].slowed)
    told = [record.getMessage() for record in caplog.records if "budget" in record.getMessage()]
    assert [
        "more fails than the retry budget allows, the queue is slowed to a tenth",
        "the retry budget has recovered",
    ] == told


async def test_a_spent_budget_never_stops_the_work() -> None:
    """Where a tenth is less than one, one handler runs; a queue of which everything fails is worked off."""
    registry = HandlerRegistry()
    most, running = 0, 0
    opened = Latch()

    @registry.task(retry=RetryPolicy(max_attempts=1))
    async def fail(name: str) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await opened.wait()
        running -= 1
        raise ValueError(name)

    async with WorkerBench(registry, concurrency=3) as bench:
        await bench.add(budget=RetryBudget(ratio=0.2, reserve=1))
        await send(bench, "fail", names(20))
        opened.set()
        await bench.start()

        await bench.until_finished(20)
        dead = (await bench.producer().stats()).dead

    assert (20, True) == (dead, most <= 3)
