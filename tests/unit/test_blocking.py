"""BlockingSource: one thread for all calls, and nothing that it claims is kept from others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from qbridge import BlockingSource, Delivery
from qbridge_memory import MemoryBroker
from tests.support.blocking_bench import SOON, Gate, looking, message, receiving, soon, threads, waking
from tests.support.blocking_memory import BlockingMemorySource


@pytest.fixture
def broker() -> MemoryBroker:
    """Where the queue of a test is."""
    return MemoryBroker()


def test_a_subclass_may_use_any_private_name(broker: MemoryBroker) -> None:
    """What the base keeps for itself has names that no subclass can hit by chance."""
    own = {*vars(BlockingSource), *vars(looking(broker))}

    private = {name for name in own if name.startswith("_") and not name.endswith("__")}

    assert {"_BlockingSource"} == {"__".join(name.split("__")[:1]) for name in private} - {"_abc_impl"}


async def test_every_call_is_made_in_one_thread_which_close_ends(broker: MemoryBroker) -> None:
    """From `do_open` to `do_close` one thread calls, not the loop's; the next `open` has another one."""
    source = looking(broker)
    seen: list[tuple[str, threading.Thread]] = []
    source.before = lambda name: seen.append((name, threading.current_thread()))

    for _ in range(2):
        await source.open()
        await source.send([message(), message()])
        [first, second] = await source.receive(2, 1)
        await source.keep_alive([first])
        await source.settle([first.ack(), second.dead_letter("rejected")])
        await source.dead_letters()
        await source.redrive()
        await source.purge()
        await source.stats()
        [third] = await source.receive(1, 1)
        await source.settle([third.ack()])
        await source.close()

    calls = [name for name, _ in seen]
    half = len(seen) // 2
    assert {"open", "send", "claim", "keep_alive", "settle", "dead_letters", "redrive", "purge", "stats"} == set(calls)
    assert calls[:half] == calls[half:]
    assert [1, 1] == [len({thread for _, thread in part}) for part in (seen[:half], seen[half:])]
    assert 2 == len({thread for _, thread in seen})
    assert threading.main_thread() not in {thread for _, thread in seen}
    assert [] == threads()


@pytest.mark.parametrize("make", [looking, waking])
async def test_a_waiting_receive_holds_nothing_up(make: type[BlockingMemorySource], broker: MemoryBroker) -> None:
    """While a `receive` waits, other calls of the source have their turn at once, and what it sends is received."""
    source = make(broker)  # type: ignore[call-arg, arg-type]  # a function that makes one
    await source.open()
    await source.send([message(b"first")])
    [first] = await source.receive(1, 1)
    waiting = await receiving(source)

    await soon(source.keep_alive([first]))
    await soon(source.settle([first.ack()]))
    await soon(source.stats())
    assert not waiting.done()
    await soon(source.send([message(b"second")]))
    received = await soon(waiting)

    assert [b"second"] == [delivery.body for delivery in received]
    await source.close()


async def test_a_client_that_can_t_be_woken_holds_others_up_for_longest_wait(broker: MemoryBroker) -> None:
    """Without `do_wake` a call waits until the `do_receive` under way has waited out `longest_wait`, not `wait`."""
    source = looking(broker)
    source.longest_wait = 0.5
    await source.open()
    waiting = await receiving(source)
    began = time.monotonic()

    await soon(source.stats())
    waited = time.monotonic() - began

    assert 0.2 < waited < 0.5 + SOON / 2
    source.wake()
    assert [] == list(await soon(waiting))
    await source.close()


async def test_look_again_ends_a_pause(broker: MemoryBroker) -> None:
    """After `look_again`, called in any thread, a waiting `receive` sees what another process has sent."""
    source = looking(broker)
    source.look_again()  # before open: nothing
    await source.open()
    waiting = await receiving(source)
    broker.queue("q").send([message(b"from elsewhere")], max_messages=10)

    threading.Thread(target=source.look_again).start()
    received = await soon(waiting)

    assert [b"from elsewhere"] == [delivery.body for delivery in received]
    await source.close()


@pytest.mark.parametrize("wait", [0.55, 0.004])
async def test_a_do_receive_that_doesn_t_wait_makes_no_spin(wait: float, broker: MemoryBroker) -> None:
    """A `do_receive` that returns at once though it may wait is called once in each `poll_interval`, up to the end."""
    source = looking(broker)
    source.longest_wait, source.poll_interval = 5.0, 0.1
    calls: list[str] = []

    def return_at_once(limit: int, wait: float) -> Sequence[Delivery]:
        calls.append("do_receive")
        return []

    source.do_receive = return_at_once  # type: ignore[method-assign]  # the fault
    await source.open()

    await source.receive(1, wait)

    assert 1 <= len(calls) <= 8
    await source.close()


@pytest.mark.parametrize("make", [looking, waking])
async def test_what_a_cancelled_receive_claims_is_released_at_once(
    make: type[BlockingMemorySource], broker: MemoryBroker
) -> None:
    """A claim that ends after its caller was cancelled goes back to the queue, and doesn't count."""
    source = make(broker)  # type: ignore[call-arg, arg-type]  # a function that makes one
    gate = Gate("claim")
    source.before = gate
    await source.open()
    broker.queue("q").send([message(), message()], max_messages=10)
    cancelled = asyncio.ensure_future(source.receive(2, 30))
    await gate.reached()

    cancelled.cancel()
    await asyncio.wait([cancelled])
    gate.open()
    received = await soon(source.receive(2, 30))

    assert cancelled.cancelled()
    assert [(1, 0), (1, 0)] == [(delivery.attempt, delivery.crashes) for delivery in received]
    await source.close()


async def test_what_a_cancelled_receive_already_had_is_released_at_once(broker: MemoryBroker) -> None:
    """A claim whose answer is on the loop when its caller is cancelled goes back as well."""
    source = looking(broker)
    await source.open()
    broker.queue("q").send([message()], max_messages=10)
    loop = asyncio.get_running_loop()
    cancelled = asyncio.ensure_future(source.receive(1, 30))
    answered = threading.Event()
    # Asked for after the claim, so answered after it, in the same turn of a loop that is held up here until both are.
    marker = asyncio.ensure_future(source.stats())
    await asyncio.sleep(0)
    source.connected.before = lambda name: answered.set() if name == "stats" else None
    loop.call_soon(lambda: answered.wait(1))
    loop.call_soon(lambda: loop.call_soon(cancelled.cancel))

    await asyncio.wait([cancelled, marker])
    [received] = list(await soon(source.receive(1, 30))) if cancelled.cancelled() else cancelled.result()

    assert (1, 0) == (received.attempt, received.crashes)
    await source.close()


async def test_close_releases_what_was_claimed_for_a_receive_that_it_ends(broker: MemoryBroker) -> None:
    """A claim under way when the source is closed is released before the thread ends."""
    source = looking(broker)
    gate = Gate("claim")
    source.before = gate
    await source.open()
    broker.queue("q").send([message()], max_messages=10)
    waiting = asyncio.ensure_future(source.receive(1, 30))
    await gate.reached()

    closing = asyncio.ensure_future(source.close())
    await asyncio.sleep(0)
    gate.open()
    await soon(closing)

    assert [] == list(await soon(waiting))
    stats = broker.queue("q").stats()
    assert (1, 0) == (stats.ready, stats.in_flight)
    assert [1] == [delivery.attempt for delivery in broker.queue("q").claim(1, 60)]
    assert [] == threads()


def test_a_claim_whose_loop_is_gone_is_released(broker: MemoryBroker) -> None:
    """If the event loop was closed during a claim the thread releases it, disconnects and ends."""
    source = looking(broker)
    gate = Gate("claim")
    source.before = gate
    broker.queue("q").send([message()], max_messages=10)

    async def leave_at_once() -> None:
        await source.open()
        claiming = asyncio.ensure_future(source.receive(1, 30))
        await gate.reached()
        claiming.cancel()
        await asyncio.wait([claiming])

    asyncio.run(leave_at_once())
    [left] = threads()
    gate.open()
    left.join(SOON)

    assert not left.is_alive()
    assert [1] == [delivery.attempt for delivery in broker.queue("q").claim(1, 60)]
    assert source.client is None
