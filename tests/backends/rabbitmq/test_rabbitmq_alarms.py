"""A broker short of memory or disk: what waits for it, what goes on, and how much a worker takes on meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qbridge import Delivery, QBridge, Settled, SourceFull, TaskMessage, load_config
from tests.backends.rabbitmq.conftest import SourceFactory
from tests.backends.rabbitmq.steps import claim, outgoing, until
from tests.support.cli import ServiceFolder
from tests.support.rabbitmq_server import RabbitServer
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.rabbitmq

HANDLERS = """
    from qbridge import HandlerRegistry, Reject, RetryPolicy, TaskContext

    registry = HandlerRegistry()
    soon = RetryPolicy(max_attempts=2, base=0.01)

    @registry.task(retry=soon)
    async def work(number: int, context: TaskContext) -> None:
        print("try", number, context.attempt)
        if number % 4 == 0 and context.attempt == 1:
            raise ValueError("not yet")
        if number % 4 == 1:
            raise Reject("never")
        print("done", number)
"""


class Alarm:
    """An alarm that a test raises and ends.

    Args:
        server: Whose.
        raising: Arguments of rabbitmqctl that raise it.
        ending: Arguments that end it.
    """

    def __init__(self, server: RabbitServer, raising: tuple[str, ...], ending: tuple[str, ...]) -> None:
        self._server = server
        self._raising = raising
        self._ending = ending
        self._is_raised = False

    async def begin(self) -> None:
        """Let the broker believe that it is short of something: it takes nothing from those who publish."""
        self._is_raised = True
        await asyncio.to_thread(self._server.ctl, *self._raising)

    async def end(self) -> None:
        """Let it have that again."""
        await asyncio.to_thread(self.be_over)

    def be_over(self) -> None:
        """End it if it isn't over; rabbitmqctl takes seconds even for nothing."""
        if self._is_raised:
            self._server.ctl(*self._ending)
            self._is_raised = False


MEMORY = (("set_vm_memory_high_watermark", "0.0000001"), ("set_vm_memory_high_watermark", "0.8"))
DISK = (("set_disk_free_limit", str(10**15)), ("set_disk_free_limit", "1MB"))


@pytest.fixture(params=[MEMORY, DISK], ids=["memory", "disk"])
def alarm(request: pytest.FixtureRequest, rough_server: RabbitServer) -> Iterator[Alarm]:
    """An alarm of either kind; it is over when the test is."""
    alarm = Alarm(rough_server, *request.param)
    yield alarm
    alarm.be_over()


@pytest.fixture
def memory_alarm(rough_server: RabbitServer) -> Iterator[Alarm]:
    """An alarm for want of memory; it is over when the test is."""
    alarm = Alarm(rough_server, *MEMORY)
    yield alarm
    alarm.be_over()


async def unsettled_are(count: int, server: RabbitServer, queue: str) -> bool:
    """Whether so many messages of the queue are on their way to a consumer or with one."""
    listed = await asyncio.to_thread(server.ctl, "list_queues", "name", "messages_unacknowledged")
    return f"{queue}\t{count}" in listed.splitlines()


async def test_acknowledgements_do_not_wait_for_copies(
    rough_server: RabbitServer, alarm: Alarm, open_source: SourceFactory, queue: str
) -> None:
    """What has succeeded is gone from the broker while retries and dead letters wait, and these come in the end."""
    source = await open_source(rough_server, queue)
    await source.send(outgoing(*[b"%d" % number for number in range(40)]))
    deliveries = await claim(source, 40)
    await alarm.begin()
    with pytest.raises(SourceFull, match=r"takes no messages.*workers drain it"):
        await source.send(outgoing(b"late"))

    began = time.monotonic()
    failed = await source.settle([*[each.retry(0) for each in deliveries[:5]], deliveries[5].dead_letter("rejected")])
    done = await source.settle([delivery.ack() for delivery in deliveries[6:]])
    took = time.monotonic() - began
    await until(lambda: unsettled_are(6, rough_server, queue))
    await alarm.end()
    returned = await claim(source, 5 + 1)
    [dead] = await source.dead_letters()

    assert [Settled.DONE] * 40 == [*failed, *done]
    assert took < 5
    assert {b"0", b"1", b"2", b"3", b"4", b"late"} == {delivery.body for delivery in returned}
    assert (b"5", "rejected") == (dead.body, dead.reason)
    await source.settle([delivery.ack() for delivery in returned])


async def test_a_starved_broker_can_be_looked_at(
    rough_server: RabbitServer, memory_alarm: Alarm, open_source: SourceFactory, queue: str
) -> None:
    """Whoever wants to know why nothing moves gets all the numbers, from an old connection and from a new one."""
    source = await open_source(rough_server, queue)
    await source.send([*outgoing(b"a", b"b", b"c"), *outgoing(b"later", delay=60)])
    [dead] = await claim(source, 1)
    await source.settle([dead.dead_letter("rejected")])
    await memory_alarm.begin()

    stats = [await source.stats(), await (await open_source(rough_server, queue)).stats()]

    assert [(2, 1, 1)] * 2 == [(each.ready, each.delayed, each.dead) for each in stats]
    assert [b"a"] == [letter.body for letter in await source.dead_letters()]


async def test_a_worker_takes_on_a_bounded_number(
    rough_server: RabbitServer, memory_alarm: Alarm, open_source: SourceFactory, queue: str
) -> None:
    """While copies wait, at most `prefetch` of them and one batch more are held; then nothing is claimed until some
    are taken, and the worker goes on by itself.
    """
    source = await open_source(rough_server, queue, prefetch=20)
    await source.send(outgoing(*[b"x"] * 300))
    await memory_alarm.begin()

    first: list[Delivery] = []
    while received := await source.receive(10, 0.5):
        first += received
        await source.settle([delivery.retry(0) for delivery in received])
    began = time.monotonic()
    nothing = [await source.receive(10, 0), await source.receive(10, 0.3)]
    took = time.monotonic() - began
    waiting = asyncio.create_task(source.receive(10, 20))
    held = 300 - (await source.stats()).ready
    await memory_alarm.end()
    later = await waiting
    await source.settle([delivery.ack() for delivery in later])
    rest = await claim(source, 300 - len(later))
    await source.settle([delivery.ack() for delivery in rest])

    assert ([[], []], True) == (nothing, took < 2)
    # What came and was not handed out is put back by a copy too.
    assert len(first) <= held <= 20 + 10
    assert len(later) > 0
    assert {1: 300 - len(first), 2: len(first)} == {
        attempt: sum(delivery.attempt == attempt for delivery in [*later, *rest]) for attempt in (1, 2)
    }


async def test_a_drain_ends_the_wait_for_room(
    rough_server: RabbitServer, memory_alarm: Alarm, open_source: SourceFactory, queue: str
) -> None:
    """A receive that waits until copies are taken returns when it is woken."""
    source = await open_source(rough_server, queue, prefetch=1)
    await source.send(outgoing(b"a", b"b"))
    await memory_alarm.begin()
    [delivery] = await source.receive(1, 5)
    await source.settle([delivery.retry(0)])

    waiting = asyncio.create_task(source.receive(1, 30))
    await asyncio.sleep(0.1)
    source.wake()

    async with asyncio.timeout(3):
        assert [] == await waiting


def lines(worker: WorkerProcess, word: str) -> list[int]:
    """The numbers that stand after a word in what a worker has printed."""
    return [int(line.split()[1]) for line in worker.lines if line.startswith(word)]


async def test_a_service_drains_a_starved_broker(
    rough_server: RabbitServer, memory_alarm: Alarm, queue: str, tmp_path: Path
) -> None:
    """`qbridge run` finishes what can be finished during an alarm, the rest after it, and each task ends once."""
    service = ServiceFolder(tmp_path)
    service.write("shop_tasks.py", HANDLERS)
    keys = {"backend": "rabbitmq", "url": rough_server.url, "queue": queue}
    service.write("qbridge.yaml", json.dumps({"handlers": ["shop_tasks"], "queues": {"default": keys}}))
    async with QBridge.from_config(None, load_config(tmp_path / "qbridge.yaml")) as bridge:
        await bridge.send_many([TaskMessage(task="work", args=[number]) for number in range(80)])
        await memory_alarm.begin()
        with pytest.raises(SourceFull):
            await bridge.send("work", 2)

    def tried_all(lines: list[str]) -> bool:
        return 80 == sum(line.startswith("try") for line in lines)

    with WorkerProcess(tmp_path) as worker:
        await asyncio.to_thread(worker.wait_for, tried_all)
        await until(lambda: unsettled_are(40, rough_server, queue))
        during = lines(worker, "done")
        await memory_alarm.end()
        await asyncio.to_thread(worker.wait_for, done(60))
        await until(lambda: unsettled_are(0, rough_server, queue))
        worker.signal(signal.SIGTERM)
        code = await asyncio.to_thread(worker.wait)
    stats = await asyncio.to_thread(service.stats)

    assert [number for number in range(80) if number % 4 > 1] == sorted(during)
    assert [number for number in range(80) if number % 4 != 1] == sorted(set(lines(worker, "done")))
    assert (0, 0, 20) == (code, stats.ready + stats.delayed, stats.dead)


def done(count: int) -> Callable[[list[str]], bool]:
    """Return whether at least so many tasks have ended well, by what a worker has printed."""
    return lambda lines: sum(line.startswith("done") for line in lines) >= count
