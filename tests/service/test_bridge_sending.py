"""QBridge as a program sends through it: from where, to which queue, and what is refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from qbridge import (
    HandlerRegistry,
    MessageTooLargeError,
    QBridge,
    SourceFull,
    TaskContext,
    TaskMessage,
    UndecodableMessageError,
    UnknownQueueError,
)
from tests.support.bridges import MEMORY, left_in


async def test_send_works_from_another_loop() -> None:
    """A thread with a loop of its own sends through the bridge of the main loop."""
    registry = HandlerRegistry()
    seen: list[str] = []

    @registry.task
    async def note(text: str) -> None:
        seen.append(text)

    async with QBridge(registry) as bridge:
        await asyncio.to_thread(lambda: asyncio.run(bridge.send("note", "from elsewhere")))
        await bridge.run(burst=True)

    assert ["from elsewhere"] == seen


async def test_another_loop_is_told_what_is_wrong_with_its_sends() -> None:
    """Each caller there gets its own outcome: what was refused before the broker, what the broker refused, an id."""

    async def send_all(bridge: QBridge) -> list[str | BaseException]:
        sends = [bridge.send("note", object()), bridge.send("note", queue="full"), bridge.send("note")]
        return await asyncio.gather(*sends, return_exceptions=True)

    async with QBridge(queues={"default": MEMORY, "full": {**MEMORY, "max_messages": 1}}) as bridge:
        await bridge.send("note", queue="full")
        outcomes = await asyncio.to_thread(lambda: asyncio.run(send_all(bridge)))
        left = [await left_in(bridge, queue) for queue in ("default", "full")]

    assert [UndecodableMessageError, SourceFull, str] == [type(outcome) for outcome in outcomes]
    assert [(1, 0, 0, 0)] * 2 == left


async def test_a_handler_sends_a_further_task() -> None:
    """TaskContext.send reaches the same queue unless another is named."""
    registry = HandlerRegistry()
    seen: list[tuple[str, str]] = []

    @registry.task
    async def first(context: TaskContext) -> None:
        await context.send("second", "here")
        await context.send("second", "there", queue="other")

    @registry.task
    async def second(text: str, context: TaskContext) -> None:
        seen.append((text, context.queue))

    async with QBridge(registry, queues={"default": MEMORY, "other": MEMORY}) as bridge:
        await bridge.send("first")
        await bridge.run(burst=True)

    assert [("here", "default"), ("there", "other")] == sorted(seen)


async def test_the_only_queue_needs_no_name_and_several_do() -> None:
    """Without a name a message goes to the only queue, or to `default`; else the known names are told."""
    async with QBridge(queues={"orders": MEMORY}) as bridge:
        await bridge.send("any")
        assert (1, 0, 0, 0) == await left_in(bridge, "orders")
    async with QBridge(queues={"orders": MEMORY, "pictures": MEMORY}) as bridge:
        with pytest.raises(UnknownQueueError) as caught:
            await bridge.send("any")
        assert "no queue is named 'default' (known: orders, pictures)" == str(caught.value)
        with pytest.raises(UnknownQueueError) as caught:
            await bridge.send("any", queue="order")
        assert "no queue is named 'order' (known: orders, pictures); did you mean 'orders'?" == str(caught.value)


async def test_a_message_that_cannot_be_sent_is_refused_before_the_broker() -> None:
    """Too large, not JSON, a delay below 0: each has its error, and nothing is sent."""
    async with QBridge(queues={"default": MEMORY | {"max_message_size": "1KiB"}}) as bridge:
        with pytest.raises(MessageTooLargeError, match=r"over the limit of 1024"):
            await bridge.send("any", "x" * 2000)
        with pytest.raises(UndecodableMessageError, match=r"arguments of task 'any' are not JSON"):
            await bridge.send("any", object())
        with pytest.raises(UndecodableMessageError, match=r"hold NaN or Infinity"):
            await bridge.send("any", float("nan"))
        with pytest.raises(ValueError, match=r"delay must be 0 or more seconds, not -1"):
            await bridge.send("any", delay=-1)

        assert (0, 0, 0, 0) == await left_in(bridge)


async def test_one_bad_message_among_many_sends_none() -> None:
    """What can't be sent is seen before the broker gets anything, also of messages that are made as they are sent."""

    def make() -> Iterator[TaskMessage]:
        for number in range(1_500):
            yield TaskMessage(task="any", args=[object() if number == 1_400 else number])

    async with QBridge(queues={"default": MEMORY}) as bridge:
        with pytest.raises(UndecodableMessageError, match=r"arguments of task 'any' are not JSON"):
            await bridge.send_many(make())
        with pytest.raises(UndecodableMessageError, match=r"arguments of task 'any' are not JSON"):
            await asyncio.to_thread(lambda: asyncio.run(bridge.send_many(make())))

        assert (0, 0, 0, 0) == await left_in(bridge)


async def test_many_messages_get_their_ids_in_order() -> None:
    """The ids are those of the messages, from the bridge's own loop and from others, where it is the first send too."""
    async with QBridge(queues={"default": MEMORY}) as bridge:
        far = await asyncio.to_thread(
            lambda: asyncio.run(bridge.send_many(TaskMessage(id=f"far-{n}", task="any") for n in range(3)))
        )
        near = await bridge.send_many([TaskMessage(id=f"near-{n}", task="any") for n in range(3)])
        none = await bridge.send_many([])
        async with bridge.source() as source:
            arrived = [delivery.message_id for delivery in await source.receive(10, 0)]

    assert [*far, *near, *none] == arrived
    assert ["far-0", "far-1", "far-2", "near-0", "near-1", "near-2"] == arrived


async def test_one_task_is_sent_for_each_of_many_arguments() -> None:
    """Positional or named arguments, from any loop, with the ids in the order of the tasks."""
    registry = HandlerRegistry()
    seen: list[tuple[str, int, str, dict[str, str]]] = []

    @registry.task
    async def note(context: TaskContext, number: int, text: str = "-") -> None:
        seen.append((context.id, number, text, dict(context.headers)))

    async with QBridge(registry, loops={"default": {"concurrency": 1}}) as bridge:
        near = await bridge.send_each("note", [(1,), [2, "b"], {"number": 3, "text": "c"}], headers={"h": "x"})
        far = await asyncio.to_thread(lambda: asyncio.run(bridge.send_each("note", ((n,) for n in range(4, 6)))))
        none = await bridge.send_each("note", [])
        await bridge.send_each("note", [(6,)], delay=60)
        await bridge.run(burst=True)
        left = await left_in(bridge)

    assert [*near, *far, *none] == [id_ for id_, *_ in seen]
    assert [(1, "-"), (2, "b"), (3, "c"), (4, "-"), (5, "-")] == [(number, text) for _, number, text, _ in seen]
    assert [{"h": "x"}] * 3 + [{}] * 2 == [headers for *_, headers in seen]
    assert (0, 1, 0, 0) == left


@pytest.mark.parametrize(
    ("task", "calls", "error", "text"),
    [
        ("note", [(1,), 2], TypeError, "a tuple or list of its arguments, or a dict of its named ones, not int"),
        ("note", ["text"], TypeError, "a tuple or list of its arguments, or a dict of its named ones, not str"),
        ("note", [{"a": 1}, {2: 3}], ValidationError, "kwargs.2"),
        ("no name", [(1,)], ValidationError, "String should match pattern"),
        ("note", [(1,), (object(),)], UndecodableMessageError, "arguments of task 'note' are not JSON"),
    ],
)
async def test_one_bad_call_among_many_sends_none(
    task: str, calls: list[Any], error: type[Exception], text: str
) -> None:
    """What is wrong with one is told before the broker gets anything."""
    async with QBridge() as bridge:
        with pytest.raises(error, match=re.escape(text)):
            await bridge.send_each(task, calls)

        assert (0, 0, 0, 0) == await left_in(bridge)


async def test_headers_travel_beside_a_raw_body_or_are_refused() -> None:
    """On a raw queue the broker carries the headers; one that can't makes the send fail, rather than drop them."""
    registry = HandlerRegistry()
    seen: list[tuple[bytes, dict[str, str]]] = []

    @registry.task
    async def note(body: bytes, context: TaskContext) -> None:
        seen.append((body, dict(context.headers)))

    raw = {"codec": {"type": "raw", "task": "note"}}
    async with QBridge(registry, queues={"default": MEMORY | raw}) as bridge:
        await bridge.send("note", b"a body", headers={"trace": "7"})
        await bridge.run(burst=True)
    assert [(b"a body", {"trace": "7"})] == seen

    async with QBridge(queues={"default": {"backend": "redis"} | raw}) as bridge:
        with pytest.raises(ValueError, match=r"queue 'default' can't carry headers"):
            await bridge.send("note", b"a body", headers={"trace": "7"})


async def test_a_delayed_task_is_not_early_and_a_burst_leaves_it() -> None:
    """A burst ends although a message waits for its time."""
    registry = HandlerRegistry()

    @registry.task
    async def later() -> None:
        raise AssertionError("it ran before its time")

    async with QBridge(registry) as bridge:
        await bridge.send("later", delay=60)
        await bridge.run(burst=True)

        assert (0, 1, 0, 0) == await left_in(bridge)
