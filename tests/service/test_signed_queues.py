"""Signing through whole programs and commands: who signs, what is refused, and what an operator sees of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from qbridge import DeadLetter, HandlerRegistry, Outgoing, QBridge, TaskContext, TaskMessage
from qbridge.codec import JsonCodec
from qbridge.service import ExitCode
from qbridge.signing import Signer
from tests.support.cli import ServiceFolder, service

__all__ = ["service"]

KEY = "correct-horse-battery-staple-0123456789"
OTHER = "another-horse-battery-staple-0123456789"
SIGNING: dict[str, Any] = {"keys": {"first": KEY}}

UNSIGNED = b'{"v":1,"id":"m1","task":"note","args":[7]}'

YAML = """
    handlers: [shop_tasks]
    queues:
      default: {backend: sqlite, path: ./q.db}
      parked: {backend: sqlite, path: ./parked.db}
      numbers: {backend: sqlite, path: ./q.db, codec: {type: raw, task: count}}
    signing: {keys: {first: "${SIGNING_KEY}"}}
"""


@pytest.fixture
def signed(service: ServiceFolder, monkeypatch: pytest.MonkeyPatch) -> ServiceFolder:
    """A folder whose service signs."""
    monkeypatch.setenv("SIGNING_KEY", KEY)
    service.write("qbridge.yaml", YAML)
    return service


def noting() -> tuple[HandlerRegistry, list[int]]:
    """Return a registry with a task `note`, and what was noted."""
    registry, noted = HandlerRegistry(), list[int]()

    @registry.task
    async def note(number: int) -> None:
        noted.append(number)

    return registry, noted


async def dead_in(bridge: QBridge) -> list[tuple[str, str]]:
    """Return reason and last error of the dead letters."""
    async with bridge.source() as source:
        letters: list[DeadLetter] = list(await source.dead_letters())
    return [(letter.reason, letter.errors[-1]) for letter in letters]


async def put(bridge: QBridge, *bodies: bytes) -> None:
    """Write bytes to the queue, as whoever has the broker's password can."""
    async with bridge.source() as source:
        await source.send([Outgoing(body=body, message_id=f"f{number}") for number, body in enumerate(bodies)])


async def test_all_ways_to_send_sign() -> None:
    """`send`, `send_many` and a handler's own `send`: a worker that wants signatures runs all of it."""
    registry, noted = noting()

    @registry.task
    async def more(context: TaskContext) -> None:
        await context.send("note", 3)

    async with QBridge(registry, signing=SIGNING) as bridge:
        await bridge.send("note", 1)
        await bridge.send_many([TaskMessage(task="note", args=[2]), TaskMessage(task="more")])
        await bridge.run(burst=True)

        assert [] == await dead_in(bridge)
    assert [1, 2, 3] == sorted(noted)


async def test_what_is_not_signed_is_not_run() -> None:
    """Bytes that anybody wrote become dead letters that say why; signed ones among them are run."""
    registry, noted = noting()
    foreign = Signer("default", {"first": OTHER.encode()}, sign_with="first").sign(UNSIGNED)
    elsewhere = Signer("orders", {"first": KEY.encode()}, sign_with="first").sign(UNSIGNED)
    good = Signer("default", {"first": KEY.encode()}, sign_with="first").sign(UNSIGNED)

    async with QBridge(registry, signing=SIGNING) as bridge:
        await put(bridge, UNSIGNED, foreign, elsewhere, b"hello", good)
        await bridge.run(burst=True)

        assert [
            ("unsigned", "message has no signature"),
            ("unsigned", "signature with key 'first' doesn't match"),
            ("unsigned", "signature with key 'first' doesn't match"),
            ("unsigned", "message has no signature"),
        ] == [(reason, error.partition(":")[0]) for reason, error in await dead_in(bridge)]
    assert [7] == noted


async def test_a_dead_letter_that_is_redriven_is_verified_again(service: ServiceFolder) -> None:
    """Making it ready again is no way around the signature; allowing unsigned messages is."""
    registry, noted = noting()
    queues = {"default": {"backend": "sqlite", "path": str(service.path / "q.db")}}

    for signing, expected in ((SIGNING, []), (SIGNING, []), ({**SIGNING, "accept_unsigned": True}, [7])):
        async with QBridge(registry, queues=queues, signing=signing) as bridge:
            async with bridge.source() as source:
                if not await source.redrive():
                    await source.send([Outgoing(body=UNSIGNED, message_id="m1")])
            await bridge.run(burst=True)

            assert len(expected) == 1 - len(await dead_in(bridge))
        assert expected == noted


async def test_a_delay_beyond_the_life_of_the_signature_is_refused() -> None:
    """A message that would be dead-lettered when its time has come is not sent."""
    async with QBridge(signing={**SIGNING, "max_age": 60}) as bridge:
        await bridge.send("note", 1, delay=59)

        with pytest.raises(ValueError, match=r"can't delay a message by 1m: its signature holds for 1m only"):
            await bridge.send("note", 1, delay=60)


def test_the_command_signs(signed: ServiceFolder) -> None:
    """`qbridge send` writes what a worker with the key runs."""
    ended = signed.run("send", "greet", '["world"]')

    assert (ExitCode.OK, "") == (ended.code, ended.err)
    worker = signed.run("run", "--burst", "--log-level", "debug", "--log-format", "json")
    assert ExitCode.OK == worker.code
    assert '"outcome": "done"' in worker.err
    assert KEY not in worker.out + worker.err


def test_the_command_refuses_a_delay_beyond_the_life_of_the_signature(signed: ServiceFolder) -> None:
    """The exit code is that of a wrong command line, and nothing is sent."""
    ended = signed.invoke("send", "cleanup", "--delay", "2h", "--set", "signing.max_age=1h")

    assert ExitCode.USAGE == ended.code
    assert [
        "error: queue 'default' can't delay a message by 2h: its signature holds for 1h only (signing.max_age)"
    ] == (ended.errors)


def test_an_operator_sees_why(signed: ServiceFolder) -> None:
    """The lists of dead letters have the reason, the error and the task that was asked for."""
    asyncio.run(_put_on(signed, b'{"v":1,"id":"m1","task":"greet","args":["world"]}'))

    worker = signed.run("run", "--burst")

    [letter] = json.loads(signed.invoke("dead", "list", "default", "--format", "json").out)
    assert "message dead-lettered" in worker.err
    assert ("greet", "unsigned", "message has no signature") == (letter["task"], letter["reason"], letter["error"])
    shown = signed.invoke("dead", "show", "default", letter["id"]).out
    assert "reason       unsigned\n" in shown
    assert "message has no signature\n" in shown
    assert KEY not in worker.out + worker.err + shown


def test_the_check_tells_of_gaps(signed: ServiceFolder) -> None:
    """Ways by which unsigned messages are run are warnings; the key is shown nowhere."""
    tight, loose = signed.invoke("check"), signed.invoke("check", "--set", "signing.accept_unsigned=true")

    gap = (
        "warning: qbridge.yaml: queues.numbers has the raw codec, whose messages have no signature: whoever can write "
        "to it can run task 'count'\n"
    )
    assert (ExitCode.OK, gap) == (tight.code, tight.err)
    assert (
        ExitCode.OK,
        f"warning: qbridge.yaml: signing.accept_unsigned is true: messages without a signature are run\n{gap}",
    ) == (loose.code, loose.err)
    assert KEY not in tight.out + tight.err + loose.out + loose.err + signed.invoke("schema").out


def test_a_message_that_is_moved_is_signed_for_its_new_queue(signed: ServiceFolder) -> None:
    """A signed message runs on the other queue; one without a signature that holds is moved as it is, and gets none."""
    signed.send("greet", "world")
    asyncio.run(_put_on(signed, b'{"v":1,"id":"m1","task":"greet","args":["mallory"]}'))

    ended = signed.invoke("move", "--from", "default", "--to", "parked")

    assert (ExitCode.OK, "2 messages moved from 'default' to 'parked'\n") == (ended.code, ended.out)
    worker = signed.run("run", "--burst", "--log-format", "json", "--log-level", "debug")
    lines = [json.loads(line) for line in worker.err.splitlines()]
    assert ["done"] == [line["outcome"] for line in lines if "outcome" in line]
    letters = json.loads(signed.invoke("dead", "list", "parked", "--format", "json").out)
    assert [("unsigned", "message has no signature")] == [(each["reason"], each["error"]) for each in letters]


async def _put_on(folder: ServiceFolder, body: bytes) -> None:
    queues = {"default": {"backend": "sqlite", "path": str(folder.path / "q.db")}}
    async with QBridge(queues=queues) as bridge:
        await put(bridge, body)


def test_a_service_without_keys_runs_signed_messages(signed: ServiceFolder) -> None:
    """Keys may reach the producers before they reach every worker."""
    signed.send("greet", "world")
    signed.write("bare.yaml", "handlers: [shop_tasks]\nqueues:\n  default: {backend: sqlite, path: ./q.db}\n")

    worker = signed.run("run", "--burst", "-c", "bare.yaml", "--log-format", "json", "--log-level", "debug")

    outcomes = [line.get("outcome") for line in map(json.loads, worker.err.splitlines())]
    assert ["done"] == [outcome for outcome in outcomes if outcome]


def test_the_size_limit_counts_the_signature(signed: ServiceFolder) -> None:
    """What the worker would find too large is refused by the sender."""
    message = TaskMessage(task="greet", args=["world"])
    size = len(JsonCodec(Signer("default", {"first": KEY.encode()}, sign_with="first")).encode(message))

    ended = signed.invoke("send", "greet", '["world"]', "--set", f"queues.default.max_message_size={size - 30}")

    assert ExitCode.USAGE == ended.code
    assert "over the limit" in ended.err
