"""Where the time of a task goes: processor time of this process for each stage, and for each backend.

    python benchmarks/stages.py                  # all backends
    python benchmarks/stages.py redis sqlite --json stages.json

Each stage is run by itself, in batches of the size that a worker with 100 tasks at once has, and the least of several
rounds is shown: what others do on the machine only adds. Processor time is this process's alone, so the broker's part
is not in it. `whole` is a drain through everything, measured in the same way; it is more than the sum, as threads take
turns and the event loops turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic, process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qbridge import Delivery, HandlerRegistry, QBridge, RetryPolicy, TaskMessage, build_config
from qbridge.codec import JsonCodec
from qbridge.execution import Job
from qbridge.interpreter import settle_in, tune
from qbridge.loops import LoopThread, new_loop
from qbridge.message import fields_of, fields_of_call, fields_of_calls
from qbridge.sender import Sender
from qbridge.source import Outgoing, QueueSource
from tests.support.rabbitmq_server import RabbitServer
from tests.support.redis_server import RedisServer

BACKENDS = ("memory", "sqlite", "redis", "rabbitmq")
BATCH, SENT_TOGETHER = 100, 1000
TASKS, ROUNDS = 10_000, 5

registry = HandlerRegistry()
ran = 0


@registry.task
async def count(number: int) -> None:
    """Count that this task ran."""
    global ran  # noqa: PLW0603  # the cheapest way for a handler to count
    ran += 1


async def least(stage: Callable[[], Awaitable[float]]) -> float:
    """Return the least of several rounds, in µs a task; a round returns seconds for `TASKS` tasks."""
    return min([await stage() for _ in range(ROUNDS)]) / TASKS * 1e6


async def making() -> float:
    """A message, by the program that sends it."""
    began = process_time()
    for number in range(TASKS):
        TaskMessage(task="count", args=[number])
    return process_time() - began


async def writing_many() -> float:
    """From messages that a program makes one by one to what a broker is given, for the call for many."""
    sender, seconds = _sender(), 0.0
    for first in range(0, TASKS, SENT_TOGETHER):
        began = process_time()
        sender.encode((fields_of(TaskMessage(task="count", args=[first + n])) for n in range(SENT_TOGETHER)), 0.0)
        seconds += process_time() - began
    return seconds


async def writing_each() -> float:
    """From a task's name and many arguments to what a broker is given, for the call for one task many times."""
    sender, seconds = _sender(), 0.0
    for first in range(0, TASKS, SENT_TOGETHER):
        calls = [(first + number,) for number in range(SENT_TOGETHER)]
        began = process_time()
        sender.encode(fields_of_calls("count", calls, {}), 0.0)
        seconds += process_time() - began
    return seconds


async def writing_one() -> float:
    """From a task's name and arguments to what a broker is given, for a single send."""
    sender, began = _sender(), process_time()
    for number in range(TASKS):
        sender.encode_one(fields_of_call("count", (number,), {}, {}), 0.0)
    return process_time() - began


async def waiting() -> float:
    """1,000 coroutines at once that wait for one thing each: what is asyncio's of 1,000 sends at once."""
    loop, began = asyncio.get_running_loop(), process_time()

    async def wait(future: asyncio.Future[None]) -> None:
        await future

    for _ in range(0, TASKS, SENT_TOGETHER):
        futures = [loop.create_future() for _ in range(SENT_TOGETHER)]
        loop.call_soon(_end, futures)
        await asyncio.gather(*(wait(future) for future in futures))
    return process_time() - began


def _end(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


async def sending_at_once() -> float:
    """1,000 sends at once, through everything, to a queue in memory."""
    async with QBridge(registry) as bridge:
        return await _send_together(bridge)


async def sending_at_once_from_afar() -> float:
    """The same in another thread with a loop of its own, as handlers send."""
    async with QBridge(registry) as bridge:
        return await asyncio.to_thread(lambda: _on_own_loop(_send_together(bridge)))


async def _send_together(bridge: QBridge) -> float:
    await bridge.send("count", 0)  # makes the sender
    began = process_time()
    for first in range(0, TASKS, SENT_TOGETHER):
        await asyncio.gather(*(bridge.send("count", first + number) for number in range(SENT_TOGETHER)))
    return process_time() - began


def _on_own_loop(coroutine: Coroutine[Any, Any, float]) -> float:
    with asyncio.Runner(loop_factory=lambda: new_loop("auto")) as runner:
        return runner.run(coroutine)


def _sender() -> Sender:
    settings = build_config({"handlers": [], "queues": {"default": {"backend": "memory"}}})
    source = settings.queues["default"].create_source("default")
    return Sender("default", source, codec=JsonCodec(), max_message_size=2**20)


async def decoding() -> float:
    """From bytes to a validated message."""
    codec = JsonCodec()
    delivery = Delivery(body=codec.encode(TaskMessage(task="count", args=[5])), receipt=1, message_id="m1")
    began = process_time()
    for _ in range(TASKS):
        codec.decode(delivery)
    return process_time() - began


async def validating() -> float:
    """The arguments, by the handler's annotations."""
    handler, message = registry["count"], TaskMessage(task="count", args=[5])
    began = process_time()
    for _ in range(TASKS):
        handler.bind(message, None)
    return process_time() - began


async def running() -> float:
    """To a loop thread in batches, arguments validated, run as a task, settlement decided, and back in batches."""
    handler, policy, codec = registry["count"], RetryPolicy(), JsonCodec()
    message = TaskMessage(task="count", args=[5])
    body = codec.encode(message)
    ended = asyncio.Event()
    left = 0

    def take(jobs: list[Job]) -> None:
        nonlocal left
        left -= len(jobs)
        if not left:
            ended.set()

    thread = LoopThread(
        "stages-0", concurrency=BATCH, worker_threads=1, implementation="auto", send=_no_send, on_ended=take
    )
    await thread.start()
    seconds = 0.0
    for _ in range(TASKS // BATCH):
        jobs = [
            Job(
                Delivery(body=body, receipt=number, message_id="m1"),
                message,
                handler,
                queue="q",
                retry=policy,
                owner=None,
                claimed_at=monotonic(),
            )
            for number in range(BATCH)
        ]
        ended.clear()
        left = BATCH
        began = process_time()
        thread.submit(jobs)
        await ended.wait()
        seconds += process_time() - began
    await thread.stop(1.0)
    return seconds


async def _no_send(*args: Any, **kwargs: Any) -> str:
    raise AssertionError("nothing is sent here")


@asynccontextmanager
async def opened(keys: dict[str, Any]) -> AsyncIterator[QueueSource]:
    """Give an open source of the queue, and with it the time to empty what was in it."""
    async with QBridge(registry, queues={"default": keys}) as bridge, bridge.source() as source:
        while found := await source.receive(500, 0):
            await source.settle([delivery.ack() for delivery in found])
        yield source


async def broker_stages(keys: dict[str, Any]) -> tuple[float, float, float]:
    """Return µs a task for sending, claiming and settling, by the backend alone."""
    body = JsonCodec().encode(TaskMessage(task="count", args=[5]))
    least_of: list[tuple[float, float, float]] = []
    for _ in range(ROUNDS):
        sending = claiming = settling = 0.0
        async with opened(keys) as source:
            for first in range(0, TASKS, SENT_TOGETHER):
                messages = [Outgoing(body=body, message_id=f"{first + number:032x}") for number in range(SENT_TOGETHER)]
                began = process_time()
                await source.send(messages)
                sending += process_time() - began
            left = TASKS
            while left:
                began = process_time()
                deliveries = await source.receive(BATCH, 1.0)
                claiming += process_time() - began
                settlements = [delivery.ack() for delivery in deliveries]
                began = process_time()
                await source.settle(settlements)
                settling += process_time() - began
                left -= len(deliveries)
        least_of.append((sending, claiming, settling))
    return tuple(min(seconds) / TASKS * 1e6 for seconds in zip(*least_of, strict=True))  # type: ignore[return-value]  # three of them


async def whole(keys: dict[str, Any]) -> float:
    """A drain through the whole worker, without its start."""
    global ran  # noqa: PLW0603
    ran = 0
    async with QBridge(registry, queues={"default": keys}) as bridge:
        for first in range(0, TASKS, SENT_TOGETHER):
            await bridge.send_many(TaskMessage(task="count", args=[first + n]) for n in range(SENT_TOGETHER))
        began = process_time()
        await bridge.run(burst=True)
        seconds = process_time() - began
    if ran != TASKS:
        raise RuntimeError(f"{ran} of {TASKS} tasks ran")
    return seconds


async def measure(brokers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return µs a task by stage; those of brokers by backend."""
    core = {
        "make a message": await least(making),
        "make and write a message, of 1,000 for `send_many`": await least(writing_many),
        "write a message, of 1,000 for `send_each`": await least(writing_each),
        "write a message, for `send`": await least(writing_one),
        "wait for one thing, 1,000 at once: asyncio's part of a send": await least(waiting),
        "send to memory, 1,000 at once": await least(sending_at_once),
        "send to memory from another loop, 1,000 at once": await least(sending_at_once_from_afar),
        "decode": await least(decoding),
        "validate the arguments": await least(validating),
        "hand over, validate, run as a task, hand back": await least(running),
    }
    backends = {}
    for name, keys in brokers.items():
        sending, claiming, settling = await broker_stages(keys)

        async def drain(keys: dict[str, Any] = keys) -> float:
            return await whole(keys)

        backends[name] = {"send": sending, "claim": claiming, "settle": settling, "whole": await least(drain)}
    return {"core": core, "backends": backends}


def main() -> int:
    """Measure, print a table, and write the figures where asked."""
    parser = argparse.ArgumentParser(description="Where the time of a task goes.")
    parser.add_argument("backends", nargs="*", choices=[*BACKENDS, []], help="all of them, if none is named")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    arguments = parser.parse_args()
    wanted = arguments.backends or BACKENDS
    tune()  # as `qbridge run` does
    settle_in()
    with ExitStack() as stack, asyncio.Runner(loop_factory=lambda: new_loop("auto")) as runner:
        brokers: dict[str, dict[str, Any]] = {}
        for name in wanted:
            brokers[name] = {"backend": name}
            if name == "sqlite":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="qbridge-stages-"))
                brokers[name]["path"] = str(Path(folder) / "q.db")
            elif name == "redis":
                brokers[name] |= {"url": stack.enter_context(RedisServer()).url, "key": "stages"}
            elif name == "rabbitmq":
                brokers[name] |= {"url": stack.enter_context(RabbitServer()).url, "queue": "stages"}
        found = runner.run(measure(brokers))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    print("| stage | µs |\n|---|---:|")
    for stage, micros in found["core"].items():
        print(f"| {stage} | {micros:.1f} |")
    for name, stages in found["backends"].items():
        for stage, micros in stages.items():
            print(f"| {name}: {stage} | {micros:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
