"""Bad messages, sent as bytes through a whole worker: each becomes a dead letter that says why, and loses nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from qbridge import DeadLetterReason, HandlerRegistry, Reject, Retry
from qbridge.codec import RawCodec
from qbridge_memory import ManualClock
from tests.support.worker_bench import WorkerBench

LIMIT = 5000
PATTERN = r"^[A-Za-z0-9_.:\-]{1,128}$"

registry = HandlerRegistry()


class Order(BaseModel):
    """What the handler takes."""

    number: int


@registry.task
async def take(order: Order, count: Annotated[int, Field(gt=0)] = 1) -> None:
    """Take an order."""


@registry.task
async def fail(text: str) -> None:
    """Fail, whatever the attempt."""
    raise ValueError(text)


@registry.task
def fail_in_thread(text: str) -> None:
    """Fail in a worker thread."""
    raise KeyError(text)


@registry.task
async def leave() -> None:
    """Try to end the process."""
    raise SystemExit(3)


@registry.task
async def reject(text: str) -> None:
    """Refuse the message."""
    raise Reject(text)


@registry.task
async def put_off(text: str) -> None:
    """Ask for another attempt, whatever the attempt."""
    raise Retry(text, delay=0.01)


@registry.task(timeout=0.02)
async def linger() -> None:
    """Take too long, whatever the attempt."""
    await asyncio.get_running_loop().create_future()


@registry.task
async def number(value: int) -> None:
    """Take a number from a raw queue."""


@registry.task
async def nothing() -> None:
    """Take nothing, and so nothing from a raw queue either."""


@dataclass(frozen=True)
class Case:
    """A body, and what becomes of it."""

    body: bytes
    reason: DeadLetterReason
    error: str
    attempts: int = 1
    raw: str = ""


UNDECODABLE = DeadLetterReason.UNDECODABLE
INVALID = DeadLetterReason.INVALID
EXHAUSTED = DeadLetterReason.EXHAUSTED

CASES = {
    "empty": Case(b"", UNDECODABLE, "body is not JSON: EOF while parsing a value at line 1 column 0"),
    "text": Case(b"hello", UNDECODABLE, "body is not JSON: expected value at line 1 column 1"),
    "binary": Case(b"\x80\x04\x95", UNDECODABLE, "body is not JSON: expected value at line 1 column 1"),
    "cut off": Case(
        b'{"v":1,"task":"take"', UNDECODABLE, "body is not JSON: EOF while parsing an object at line 1 column 20"
    ),
    "NaN": Case(
        b'{"v":1,"task":"take","args":[NaN]}',
        UNDECODABLE,
        "body is not JSON: expected value at line 1 column 30",
    ),
    "infinity": Case(
        b'{"v":1,"task":"take","args":[{"number":1}],"kwargs":{"count":1e999}}',
        UNDECODABLE,
        "envelope doesn't fit: a number is beyond 1.8e308, where floats end",
    ),
    "too deep": Case(
        b'{"v":1,"task":"take","args":' + b"[" * 300 + b"]" * 300 + b"}",
        UNDECODABLE,
        "body is not JSON: recursion limit exceeded at line 1 column 229",
    ),
    "too many digits": Case(
        b'{"v":1,"task":"take","args":[' + b"1" * 4400 + b"]}",
        UNDECODABLE,
        "body is not JSON: number out of range at line 1 column 4331",
    ),
    "no object": Case(b"[1,2]", UNDECODABLE, "envelope is a JSON array, not an object"),
    "another system's": Case(
        b'{"id":"1","task":"take","args":[],"kwargs":{},"retries":0}',
        UNDECODABLE,
        "envelope has no version v: 1",
    ),
    "another version": Case(b'{"v":2,"task":"take"}', UNDECODABLE, "envelope version is '2', this worker reads 1"),
    "no task": Case(b'{"v":1}', UNDECODABLE, "envelope doesn't fit: task: Field required"),
    "no task name": Case(
        b'{"v":1,"task":"take it"}',
        UNDECODABLE,
        f"envelope doesn't fit: task: String should match pattern '{PATTERN}'",
    ),
    "unknown key": Case(
        b'{"v":1,"task":"take","eta":5}', UNDECODABLE, "envelope doesn't fit: eta: Extra inputs are not permitted"
    ),
    "arguments no list": Case(
        b'{"v":1,"task":"take","args":{"order":1}}',
        UNDECODABLE,
        "envelope doesn't fit: args: Input should be a valid list",
    ),
    "header no text": Case(
        b'{"v":1,"task":"take","headers":{"a":1}}',
        UNDECODABLE,
        "envelope doesn't fit: headers.a: Input should be a valid string",
    ),
    "too large": Case(
        b'{"v":1,"task":"take","args":["' + b"x" * LIMIT + b'"]}',
        DeadLetterReason.TOO_LARGE,
        "message has 5033 bytes, over max_message_size: 5000",
    ),
    "too large to be read at all": Case(
        b"{" * (LIMIT + 1), DeadLetterReason.TOO_LARGE, "message has 5001 bytes, over max_message_size: 5000"
    ),
    "unknown task": Case(
        b'{"v":1,"task":"takes"}',
        DeadLetterReason.UNKNOWN_TASK,
        "no handler is registered for task 'takes'",
        attempts=3,
    ),
    "a function of the standard library": Case(
        b'{"v":1,"task":"os:system","args":["true"]}',
        DeadLetterReason.UNKNOWN_TASK,
        "no handler is registered for task 'os:system'",
        attempts=3,
    ),
    "a builtin": Case(
        b'{"v":1,"task":"__import__","args":["os"]}',
        DeadLetterReason.UNKNOWN_TASK,
        "no handler is registered for task '__import__'",
        attempts=3,
    ),
    "a function of the handler's module": Case(
        b'{"v":1,"task":"asyncio.run","args":[1]}',
        DeadLetterReason.UNKNOWN_TASK,
        "no handler is registered for task 'asyncio.run'",
        attempts=3,
    ),
    "argument missing": Case(
        b'{"v":1,"task":"take"}', INVALID, "arguments of task 'take' don't fit: order: Missing required argument"
    ),
    "arguments wrong": Case(
        b'{"v":1,"task":"take","args":[{"number":"secret"}],"kwargs":{"count":0}}',
        INVALID,
        "arguments of task 'take' don't fit: order.number: Input should be a valid integer, unable to parse string as "
        "an integer; count: Input should be greater than 0",
    ),
    "argument unknown": Case(
        b'{"v":1,"task":"take","args":[{"number":1}],"kwargs":{"colour":"red"}}',
        INVALID,
        "arguments of task 'take' don't fit: colour: Unexpected keyword argument",
    ),
    "argument twice": Case(
        b'{"v":1,"task":"take","args":[{"number":1}],"kwargs":{"order":{"number":1}}}',
        INVALID,
        "arguments of task 'take' don't fit: order: Got multiple values for argument",
    ),
    "too many arguments": Case(
        b'{"v":1,"task":"nothing","args":[1]}',
        INVALID,
        "arguments of task 'nothing' don't fit: 0: Unexpected positional argument",
    ),
    "failing": Case(b'{"v":1,"task":"fail","args":["no luck"]}', EXHAUSTED, "ValueError: no luck", attempts=3),
    "failing in a thread": Case(
        b'{"v":1,"task":"fail_in_thread","args":["no luck"]}', EXHAUSTED, "KeyError: 'no luck'", attempts=3
    ),
    "leaving": Case(b'{"v":1,"task":"leave"}', EXHAUSTED, "SystemExit: 3", attempts=3),
    "put off": Case(b'{"v":1,"task":"put_off","args":["busy"]}', EXHAUSTED, "busy", attempts=3),
    "lingering": Case(
        b'{"v":1,"task":"linger"}',
        EXHAUSTED,
        "TimeoutError: handler 'linger' ran over its timeout of 0.02 s",
        attempts=3,
    ),
    "rejected": Case(b'{"v":1,"task":"reject","args":["too old"]}', DeadLetterReason.REJECTED, "too old"),
    "raw, no number": Case(
        b"five",
        INVALID,
        "arguments of task 'number' don't fit: value: Input should be a valid integer, unable to parse string as an "
        "integer",
        raw="number",
    ),
    "raw, binary": Case(
        b"\xff\xfe",
        INVALID,
        "arguments of task 'number' don't fit: value: Input should be a valid integer, unable to parse string as an "
        "integer",
        raw="number",
    ),
    "raw, empty": Case(
        b"",
        INVALID,
        "arguments of task 'number' don't fit: value: Input should be a valid integer, unable to parse string as an "
        "integer",
        raw="number",
    ),
    "raw, too large": Case(
        b"1" * (LIMIT + 1),
        DeadLetterReason.TOO_LARGE,
        "message has 5001 bytes, over max_message_size: 5000",
        raw="number",
    ),
    "raw, for nobody": Case(
        b"5",
        INVALID,
        "arguments of task 'nothing' don't fit: 0: Unexpected positional argument",
        raw="nothing",
    ),
    "raw, unknown task": Case(
        b"5",
        DeadLetterReason.UNKNOWN_TASK,
        "no handler is registered for task 'nobody'",
        attempts=3,
        raw="nobody",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_a_bad_message_becomes_a_dead_letter(case: Case) -> None:
    """Reason, error, attempts and the original bytes are kept; the worker goes on to the next message."""
    async with WorkerBench(registry) as bench:
        codec = RawCodec(case.raw) if case.raw else None
        source = await bench.add(codec=codec, max_message_size=LIMIT)
        await bench.add("good")
        await bench.start()

        await bench.send_bodies(case.body)
        await bench.until_finished(case.attempts)
        await bench.send("take", [{"number": 1}], queue="good")
        await bench.until_finished(case.attempts + 1)

        [dead] = await source.dead_letters()
        assert ("m0", case.body, case.reason, case.attempts) == (
            dead.message_id,
            dead.body,
            dead.reason,
            dead.attempts,
        )
        assert case.attempts == len(dead.errors)
        assert [case.error] * case.attempts == [error.partition("\n")[0] for error in dead.errors]
        assert ("dead_lettered", "done") == (bench.finished[-2].outcome, bench.finished[-1].outcome)


async def test_bad_messages_do_not_hold_up_good_ones() -> None:
    """In one batch of good and bad messages each has its own fate."""
    async with WorkerBench(registry) as bench:
        source = await bench.add()
        good = b'{"v":1,"task":"take","args":[{"number":1}]}'
        await bench.send_bodies(good, b"", good, b'{"v":1,"task":"take"}', good)
        await bench.start()

        await bench.until_finished(5)

        assert [("m1", UNDECODABLE), ("m3", INVALID)] == [
            (dead.message_id, dead.reason) for dead in await source.dead_letters()
        ]
        assert 3 == sum(event.outcome == "done" for event in bench.finished)


async def test_a_message_that_keeps_killing_its_workers_is_not_run_again() -> None:
    """After `max_crashes` it is dead-lettered as `crashed`, unread and unrun, with its bytes."""
    clock = ManualClock()
    async with WorkerBench(registry, clock=clock) as bench:
        source = await bench.add()
        await bench.send_bodies(b'{"v":1,"task":"take","args":[{"number":1}]}')
        for _ in range(3):  # three workers that took it and were never heard of again
            assert await bench.producer().receive(1, 0.0)
            clock.advance(31.0)
        await bench.start()

        await bench.until_finished(1)

        [dead] = await source.dead_letters()
        assert (
            "crashed",
            ("its worker died or lost its lease 3 times (max_crashes: 3)",),
            b'{"v":1,"task":"take","args":[{"number":1}]}',
        ) == (dead.reason, tuple(dead.errors), dead.body)
        [event] = bench.finished
        assert (None, "") == (event.duration, event.loop_thread)
