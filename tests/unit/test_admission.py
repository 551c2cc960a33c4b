"""Admission: which deliveries become jobs, and what is told of the others."""

from __future__ import annotations

import logging

import pytest

from qbridge import Action, Delivery, HandlerRegistry, RetryPolicy, TaskMessage
from qbridge.admission import Admission, Route
from qbridge.codec import JsonCodec
from qbridge.event_hub import EventHub
from qbridge.events import Event, TaskFinished
from qbridge.intake import Intake
from qbridge.signing import Signer
from qbridge_memory import MemoryBroker
from tests.support.intake_bench import Sink
from tests.support.scripted_source import ScriptedSource

POLICY = RetryPolicy(max_attempts=2, backoff="constant", base=3, jitter=False)
OWN_POLICY = RetryPolicy(max_attempts=7)
ROUTE = Route(codec=JsonCodec(), max_message_size=200)


class Bench:
    """An admission, an intake that nothing settles, and what was told."""

    def __init__(self) -> None:
        registry = HandlerRegistry()
        registry.task(name="pay")(pay)
        registry.task(name="retry", retry=OWN_POLICY)(pay)
        self.told: list[Event] = []
        self.hub = EventHub()
        self.intake = Intake("orders", ScriptedSource(MemoryBroker()), consumer=Sink(), events=self.hub)
        self.admission = Admission(registry, retry=POLICY, max_crashes=3, events=self.hub)


async def pay() -> None:
    """Be a handler."""


@pytest.fixture
async def bench() -> Bench:
    """An admission whose events are kept."""
    bench = Bench()
    bench.hub.subscribe(bench.told.append)
    return bench


def delivery(body: bytes, *, attempt: int = 1, crashes: int = 0) -> Delivery:
    """Return a delivery with this body."""
    return Delivery(body=body, receipt=1, message_id="b1", attempt=attempt, crashes=crashes)


@pytest.mark.parametrize(("task", "policy"), [("pay", POLICY), ("retry", OWN_POLICY)])
async def test_a_good_message_becomes_a_job(bench: Bench, task: str, policy: RetryPolicy) -> None:
    """It carries all that is needed to run it; a handler's own retry policy goes before the worker's."""
    good = delivery(b'{"v":1,"id":"m1","task":"%s"}' % task.encode(), crashes=2)

    job = bench.admission.admit(bench.intake, ROUTE, good, 12.5)

    assert job is not None
    assert (good, "m1", task, "orders", policy, bench.intake, 12.5) == (
        job.delivery,
        job.message.id,
        job.handler.name,
        job.queue,
        job.retry,
        job.owner,
        job.claimed_at,
    )
    assert ([], 0) == (bench.told, len(bench.intake._settlements))


@pytest.mark.parametrize(
    ("refused", "action", "delay", "event"),
    [
        (
            delivery(b'{"v":1,"id":"m1","task":"pay"}', attempt=4, crashes=3),
            Action.DEAD_LETTER,
            0.0,
            TaskFinished(
                queue="orders",
                task="",
                message_id="b1",
                attempt=4,
                outcome="dead_lettered",
                reason="crashed",
                error="its worker died or lost its lease 3 times (max_crashes: 3)",
            ),
        ),
        (
            delivery(b"x" * 201),
            Action.DEAD_LETTER,
            0.0,
            TaskFinished(
                queue="orders",
                task="",
                message_id="b1",
                attempt=1,
                outcome="dead_lettered",
                reason="too_large",
                error="message has 201 bytes, over max_message_size: 200",
            ),
        ),
        (
            delivery(b"{}"),
            Action.DEAD_LETTER,
            0.0,
            TaskFinished(
                queue="orders",
                task="",
                message_id="b1",
                attempt=1,
                outcome="dead_lettered",
                reason="undecodable",
                error="envelope has no version v: 1",
            ),
        ),
        (
            delivery(b'{"v":1,"id":"m1","task":"nobody"}'),
            Action.RETRY,
            3.0,
            TaskFinished(
                queue="orders",
                task="nobody",
                message_id="m1",
                attempt=1,
                outcome="retried",
                error="no handler is registered for task 'nobody'",
            ),
        ),
        (
            delivery(b'{"v":1,"id":"m1","task":"nobody"}', attempt=2),
            Action.DEAD_LETTER,
            0.0,
            TaskFinished(
                queue="orders",
                task="nobody",
                message_id="m1",
                attempt=2,
                outcome="dead_lettered",
                reason="unknown_task",
                error="no handler is registered for task 'nobody'",
            ),
        ),
    ],
    ids=["crashed", "too large", "undecodable", "unknown for now", "unknown"],
)
async def test_what_becomes_no_job_is_settled_and_told(
    bench: Bench, refused: Delivery, action: Action, delay: float, event: TaskFinished
) -> None:
    """The settlement is decided at once, and whoever listens hears of it."""
    job = bench.admission.admit(bench.intake, ROUTE, refused, 0.0)

    [settlement] = bench.intake._settlements
    assert job is None
    assert (refused, action, delay, event.reason, event.error) == (
        settlement.delivery,
        settlement.action,
        settlement.delay,
        settlement.reason,
        settlement.error,
    )
    assert [event] == bench.told


SIGNER = Signer("orders", {"first": b"k" * 32}, sign_with="first")


async def test_a_message_without_a_signature_that_holds_is_settled_as_unsigned(bench: Bench) -> None:
    """It becomes a dead letter of its own kind, whatever else would be wrong with it."""
    route = Route(codec=JsonCodec(SIGNER), max_message_size=200)
    signed = SIGNER.sign(b'{"v":1,"id":"m1","task":"pay"}')

    jobs = [
        bench.admission.admit(bench.intake, route, delivery(body), 0.0)
        for body in (signed, b'{"v":1,"task":"pay"}', signed.replace(b"m1", b"m2"), b"not JSON")
    ]

    assert [True, False, False, False] == [job is not None for job in jobs]
    assert [(Action.DEAD_LETTER, "unsigned")] * 3 == [(one.action, one.reason) for one in bench.intake._settlements]
    assert ["message has no signature", "signature with key 'first' doesn't match", "message has no signature"] == [
        one.error.partition(":")[0] for one in bench.intake._settlements
    ]


async def test_a_message_over_the_limit_is_not_even_looked_at(bench: Bench) -> None:
    """The size is checked before the codec gets the message."""

    class Untouched(JsonCodec):
        def decode(self, delivery: Delivery) -> TaskMessage:
            raise AssertionError(f"decodes {len(delivery.body)} bytes")

    route = Route(codec=Untouched(), max_message_size=200)

    job = bench.admission.admit(bench.intake, route, delivery(b" " * 201), 0.0)

    assert job is None
    assert ["too_large"] == [one.reason for one in bench.intake._settlements]


async def test_the_error_of_a_refusal_is_bounded(bench: Bench) -> None:
    """However much is wrong with a message, what is kept and logged of it has its limit."""
    route = Route(codec=JsonCodec())
    keys = b",".join(b'"%0200d":0' % number for number in range(1000))

    bench.admission.admit(bench.intake, route, delivery(b'{"v":1,"task":"pay","headers":{%b}}' % keys), 0.0)

    [settlement] = bench.intake._settlements
    assert len(settlement.error) < 2000
    assert settlement.error.endswith("; and 990 more problems")


async def test_a_refusal_is_logged_without_the_message(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A dead letter is an error line, a task that may become known a warning; neither repeats what was sent."""
    caplog.set_level(logging.DEBUG)

    for body in (b'{"v":1,"task":"secret hunter2"}', b'{"v":1,"id":"m1","task":"nobody","args":["hunter2"]}'):
        bench.admission.admit(bench.intake, ROUTE, delivery(body), 0.0)

    assert [
        (logging.ERROR, "message dead-lettered"),
        (logging.WARNING, "no handler for this task, it is tried again later"),
    ] == [(record.levelno, record.getMessage()) for record in caplog.records]
    assert "hunter2" not in "".join(str(record.__dict__) for record in caplog.records)
    assert ("orders", "nobody", "m1", 3.0) == tuple(
        caplog.records[1].__dict__[key] for key in ("queue", "task", "message_id", "delay")
    )
