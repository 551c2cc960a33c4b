"""What happens in the file: how much is read and written, how large it grows, and what it survives."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qbridge import Outgoing
from qbridge_sqlite import SqliteOptions, dead_letters, settling, statements
from qbridge_sqlite.database import Database
from qbridge_sqlite.requests import Call, Claim, Send, Settle
from tests.backends.sqlite.conftest import PATIENCE, SourceFactory, bodies, make_source, outgoing

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}{name}": text
    for module in (statements, settling, dead_letters)
    for name, text in vars(module).items()
    if name.startswith("_")
    and isinstance(text, str)
    and text.split()[:1] in (["SELECT"], ["UPDATE"], ["DELETE"], ["INSERT"])
}


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    """The part of a source that its thread has, in the test's thread."""
    database = Database("q", path, SqliteOptions(path=path), threading.Event())
    yield database
    database.close()


def perform(database: Database, request: Any) -> Any:
    """Return the answer to one request."""
    [(_, answer)] = database.perform([request])
    if isinstance(answer, Exception):
        raise answer
    return answer


def size(path: Path) -> int:
    """Return a file's bytes."""
    return path.stat().st_size


def log_of(path: Path) -> Path:
    """Return the write-ahead log of a database."""
    return path.with_name(f"{path.name}-wal")


def test_all_statements_of_the_backend_are_looked_at() -> None:
    """The list for the next test is not empty by mistake."""
    assert len(STATEMENTS) >= 20
    assert {"statements_READ_READY", "settling_RETRY", "dead_letters_LIST"} <= set(STATEMENTS)


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_reads_or_sorts_all_messages(database: Database, name: str) -> None:
    """Every statement finds its rows through an index and in order: no table is scanned, none sorted."""
    text = STATEMENTS[name]
    given = dict.fromkeys(re.findall(r":(\w+)", text), 1)

    plan = database.sqlite.execute(f"EXPLAIN QUERY PLAN {text}", given).fetchall()
    steps = [step for *_, step in plan]

    assert steps
    assert [] == [step for step in steps if step.startswith(("SCAN messages", "SCAN named", "SCAN dead_letters"))]
    # What sorts is one settled batch, or one batch of ids.
    if name not in {"settling_BURY", "statements_OLDEST"}:
        assert [] == [step for step in steps if "USE TEMP B-TREE" in step]


def test_a_claim_costs_the_same_whatever_lies_beside(database: Database) -> None:
    """Claiming 10 takes as many steps of SQLite with 6,000 delayed, held and dead messages as with none."""
    perform(database, Send(messages=outgoing(*(f"first {number}" for number in range(10)))))
    alone = steps_of_a_claim(database)

    perform(database, Send(messages=outgoing(*(f"held {number}" for number in range(4000)))))
    for _ in range(4):
        held = perform(database, Claim(limit=1000, waits=False)).deliveries
    perform(database, Settle(settlements=[delivery.dead_letter("rejected") for delivery in held]))
    perform(database, Send(messages=outgoing(*(f"later {number}" for number in range(2000)), delay=600)))
    perform(database, Send(messages=outgoing(*(f"ready {number}" for number in range(2000)))))
    beside_many = steps_of_a_claim(database)

    assert beside_many < alone * 1.2


def steps_of_a_claim(database: Database) -> int:
    """Return how many instructions of SQLite's machine the claim of 10 messages takes."""
    steps = []
    database.sqlite.set_progress_handler(lambda: steps.append(1), 1)
    claimed = perform(database, Claim(limit=10, waits=False))
    database.sqlite.set_progress_handler(None, 1)
    assert 10 == len(claimed.deliveries)
    return len(steps)


def test_what_gathers_is_committed_together(database: Database) -> None:
    """Fifty sends that were asked for at once are one statement and one commit, and keep their order."""
    texts: list[str] = []
    database.sqlite.set_trace_callback(texts.append)

    answers = database.perform([Send(messages=outgoing(f"{number}")) for number in range(50)])
    database.sqlite.set_trace_callback(None)
    claimed = perform(database, Claim(limit=100, waits=False))

    assert [None] * 50 == [answer for _, answer in answers]
    assert 1 == sum(text == "COMMIT" for text in texts)
    assert 1 == sum("INSERT INTO messages" in text for text in texts)
    assert [f"{number}" for number in range(50)] == bodies(claimed.deliveries)


def test_one_request_that_fails_takes_no_other_with_it(database: Database) -> None:
    """Of a group that can't be committed as a whole, each request is done or fails by itself."""
    perform(database, Send(messages=outgoing("old")))
    [old] = perform(database, Claim(limit=1, waits=False)).deliveries
    wrong = Outgoing(body="no bytes", message_id="wrong")  # type: ignore[arg-type]  # what is tested

    requests = [
        Send(messages=outgoing("a")),
        Send(messages=[wrong]),
        Settle(settlements=[old.ack()]),
        Call(function=lambda database: database.sqlite.execute("SELECT nonsense")),
        Send(messages=outgoing("b")),
    ]
    answers = [answer for _, answer in database.perform(requests)]

    assert [None, "TypeError", ["done"], "SourceUnavailable", None] == [
        type(answer).__name__ if isinstance(answer, Exception) else answer for answer in answers
    ]
    assert ["a", "b"] == bodies(perform(database, Claim(limit=10, waits=False)).deliveries)


@pytest.mark.parametrize(("synchronous", "level"), [("full", 2), ("normal", 1)])
def test_the_durability_is_as_configured(path: Path, synchronous: Any, level: int) -> None:
    """`synchronous: full`, the default, really is what SQLite does, in a write-ahead log."""
    options = SqliteOptions(path=path, synchronous=synchronous)
    database = Database("q", path, options, threading.Event())

    found = [database.sqlite.execute(f"PRAGMA {name}").fetchone() for name in ("synchronous", "journal_mode")]
    database.close()

    assert [(level,), ("wal",)] == found
    assert "full" == SqliteOptions(path=path).synchronous


async def test_the_log_stays_small_while_others_wait(open_source: SourceFactory, path: Path) -> None:
    """The write-ahead log begins anew again and again, though another source waits on the file all the time."""
    idle, busy = await open_source("idle"), await open_source("busy")
    waiting = asyncio.create_task(idle.receive(1, PATIENCE))
    largest = 0

    for number in range(60):
        await busy.send([Outgoing(body=b"x" * 1000, message_id=f"{number}") for _ in range(250)])
        deliveries = await busy.receive(250, 0)
        await busy.settle([delivery.ack() for delivery in deliveries])
        largest = max(largest, size(log_of(path)))
    idle.wake()
    await waiting

    written = 60 * 250 * 1000
    assert largest < written / 2


async def test_room_is_used_again(open_source: SourceFactory, path: Path) -> None:
    """A queue that is filled and emptied many times takes no more of the disk than the first time."""
    source = await open_source()
    sizes = []

    for _ in range(10):
        await source.send([Outgoing(body=b"x" * 1000, message_id=f"{number}") for number in range(1000)])
        deliveries = await source.receive(1000, 0)
        await source.settle([delivery.ack() for delivery in deliveries])
        sizes.append(size(path))

    assert 1000 == len(deliveries)
    assert sizes[-1] <= 2_000_000


async def test_claiming_a_large_message_writes_little(path: Path) -> None:
    """A claim overwrites what it changes and leaves the body where it is."""
    source = make_source(path)
    await source.open()
    await source.send([Outgoing(body=b"x" * 1_000_000, message_id="large")])
    before = size(log_of(path))

    [delivery] = await source.receive(1, 0)
    written = size(log_of(path)) - before
    await source.close()

    assert b"x" * 1_000_000 == delivery.body
    assert written < 50_000


async def test_queues_of_one_file_do_not_see_each_other(open_source: SourceFactory) -> None:
    """Two queues share a file, and neither messages nor dead letters nor counts."""
    one, two = await open_source("one"), await open_source("two")
    await one.send(outgoing("a", "b"))
    await two.send(outgoing("c"))
    [delivery] = await one.receive(1, 0)

    await one.settle([delivery.dead_letter("rejected")])

    assert ["c"] == bodies(await two.receive(10, 0))
    assert [] == await two.dead_letters()
    assert (0, 0) == (await two.redrive(), await two.purge())
    stats = [await one.stats(), await two.stats()]
    assert [(1, 0, 1), (0, 1, 0)] == [(counts.ready, counts.in_flight, counts.dead) for counts in stats]


async def test_messages_survive_a_restart(path: Path) -> None:
    """What was sent, with its delays, errors and dead letters, is there when the file is opened again."""
    source = make_source(path)
    await source.open()
    await source.send(outgoing("tried", "dead", "ready"))
    tried, dead = await source.receive(2, 0)
    await source.settle([tried.retry(0, "it failed"), dead.dead_letter("rejected", "no")])
    await source.send(outgoing("later", delay=60))
    await source.close()

    await source.open()
    received = await source.receive(10, 0)
    stats = await source.stats()
    [letter] = await source.dead_letters()
    await source.close()

    assert [("ready", 1), ("tried", 2)] == [(item.body.decode(), item.attempt) for item in received]
    assert (0, 1, 2, 1) == (stats.ready, stats.delayed, stats.in_flight, stats.dead)
    assert (b"dead", "rejected", ("no",)) == (letter.body, letter.reason, tuple(letter.errors))


async def test_a_message_that_another_program_wrote_is_received(open_source: SourceFactory, path: Path) -> None:
    """A row that is inserted with plain SQL is a message; one whose body is text is refused by the file itself."""
    source = await open_source()
    insert = (
        "INSERT INTO messages (queue, state, due, ready_at, enqueued_at, message_id, body)"
        " SELECT id, 2, 0, 0, 0, 'foreign', {body} FROM queues WHERE name = 'q'"
    )
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(insert.format(body="x'00ff'"))
    with pytest.raises(sqlite3.IntegrityError):
        other.execute(insert.format(body="'text'"))
    other.close()

    [delivery] = await source.receive(10, PATIENCE)

    assert (b"\x00\xff", "foreign") == (delivery.body, delivery.message_id)
