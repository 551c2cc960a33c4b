"""What becomes of messages: bytes and names of all kinds, order, settlements, dead letters by the thousand."""

from __future__ import annotations

from typing import Any

import pytest

from qbridge import MAX_ERRORS_KEPT, Outgoing, Settled
from qbridge_sqlite.connection_thread import ConnectionThread
from qbridge_sqlite.requests import Request
from tests.backends.sqlite.conftest import PATIENCE, SourceFactory, WallClock, bodies, claim, outgoing


async def test_all_bytes_and_sizes_come_back(open_source: SourceFactory) -> None:
    """Empty, binary and large bodies, small and large mixed in one claim, come back unchanged and in order."""
    source = await open_source()
    sent = [b"", bytes(range(256)), b"\x00", b"x" * 65536, b"y" * 65537, "ü".encode(), b"\xff" * 300_000, b"", b"end"]

    await source.send([Outgoing(body=body, message_id=f"{number}") for number, body in enumerate(sent)])
    deliveries = await source.receive(100, 0)

    assert sent == [delivery.body for delivery in deliveries]


async def test_a_queue_of_empty_bodies_is_received(open_source: SourceFactory) -> None:
    """Messages without a single byte are messages."""
    source = await open_source()

    await source.send([Outgoing(body=b"", message_id=name) for name in ("a", "b")])
    deliveries = await source.receive(100, 0)

    assert [("a", b""), ("b", b"")] == [(delivery.message_id, delivery.body) for delivery in deliveries]


async def test_more_bytes_than_one_statement_takes_are_sent_in_order(open_source: SourceFactory) -> None:
    """A send whose bodies are too many bytes for one statement still is one send, in order."""
    source = await open_source()
    sent = [bytes([65 + number]) * 3_000_000 for number in range(8)]

    await source.send([Outgoing(body=body, message_id="m") for body in sent])
    deliveries = await source.receive(100, 0)

    assert sent == [delivery.body for delivery in deliveries]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("ünï-✓", "ünï-✓"),
        ("'; DROP TABLE messages; --", "'; DROP TABLE messages; --"),
        ("a\0b", "a�b"),
        ("a\ud800", "a?"),
    ],
)
async def test_odd_names_do_no_harm(open_source: SourceFactory, name: str, kept: str) -> None:
    """A message whose id no database could keep is delivered all the same, under the nearest name."""
    source = await open_source()

    await source.send([Outgoing(body=b"body", message_id=name, headers={name: f"\n{name}"})])
    [delivery] = await source.receive(1, 0)
    await source.settle([delivery.dead_letter(name, name)])
    [letter] = await source.dead_letters()

    assert (kept, {name: f"\n{name}"}) == (delivery.message_id, dict(delivery.headers))
    assert (kept, kept, (name,), {name: f"\n{name}"}) == (
        letter.message_id,
        letter.reason,
        tuple(letter.errors),
        dict(letter.headers),
    )


async def test_one_call_claims_a_bounded_batch(open_source: SourceFactory) -> None:
    """One claim takes at most 1000 messages, so that no other process waits long for the file."""
    source = await open_source()
    await source.send(outgoing(*(f"{number}" for number in range(1500))))

    first, second = await source.receive(5000, 0), await source.receive(5000, 0)

    assert (1000, 500) == (len(first), len(second))
    assert [f"{number}" for number in range(1500)] == bodies([*first, *second])


async def test_a_batch_is_settled_in_all_ways(open_source: SourceFactory) -> None:
    """Acks, retries, releases and dead letters of one call each do what they say."""
    source = await open_source()
    await source.send(outgoing("acked", "retried", "released", "dead", "untouched"))
    acked, retried, released, dead = await source.receive(4, 0)

    outcomes = await source.settle(
        [released.release(), dead.dead_letter("rejected", "no"), retried.retry(0, "failed"), acked.ack()]
    )
    received = await source.receive(10, 0)

    assert [Settled.DONE] * 4 == outcomes
    assert [("released", 1), ("untouched", 1), ("retried", 2)] == [
        (delivery.body.decode(), delivery.attempt) for delivery in received
    ]
    assert ["dead"] == [letter.message_id for letter in await source.dead_letters()]


async def test_a_retry_without_a_delay_goes_to_the_end_at_once(open_source: SourceFactory) -> None:
    """A message retried with no delay stands behind what is ready, and before what is sent later."""
    source = await open_source()
    await source.send(outgoing("retried", "ready"))
    [delivery] = await source.receive(1, 0)

    await source.settle([delivery.retry(0)])
    await source.send(outgoing("later"))

    assert ["ready", "retried", "later"] == bodies(await source.receive(10, 0))


async def test_of_two_settlements_in_one_batch_the_first_counts(open_source: SourceFactory) -> None:
    """Within a batch a repeated settlement is DONE, and another one of the same delivery is LOST."""
    source = await open_source()
    await source.send(outgoing("a", "b"))
    first, second = await source.receive(2, 0)

    outcomes = await source.settle([first.release(), first.ack(), first.release(), second.ack(), second.ack()])

    assert ["done", "lost", "done", "done", "done"] == outcomes
    assert ["a"] == bodies(await source.receive(10, 0))


async def test_a_lease_that_nobody_took_over_still_holds(open_source: SourceFactory, clock: WallClock) -> None:
    """A delivery whose lease ran out can be renewed and settled as long as no other worker has claimed it."""
    source = await open_source(lease=30)
    await source.send(outgoing("renewed", "acked"))
    renewed, acked = await source.receive(2, 0)
    clock.advance(31)

    lost = await source.keep_alive([renewed])
    outcomes = await source.settle([acked.ack()])
    clock.advance(29)

    assert [] == lost
    assert [Settled.DONE] == outcomes
    assert [] == await source.receive(10, 0)


async def test_a_lease_that_was_taken_over_is_lost(open_source: SourceFactory, clock: WallClock) -> None:
    """Once another worker has the message, its first holder can neither renew nor settle, and disturbs nothing."""
    source, other = await open_source(lease=30), await open_source(lease=30)
    await source.send(outgoing("a"))
    [late] = await source.receive(1, 0)
    clock.advance(31)
    [current] = await other.receive(1, 0)

    lost = await source.keep_alive([late])
    outcomes = await source.settle([late.ack(), late.release(), late.retry(0), late.dead_letter("rejected")])

    assert [late] == lost
    assert [Settled.LOST] * 4 == outcomes
    assert (2, 1) == (current.attempt, current.crashes)
    assert [Settled.DONE] == await other.settle([current.ack()])


async def test_lapsed_leases_come_back_in_bounded_batches(open_source: SourceFactory, clock: WallClock) -> None:
    """After an outage thousands of leases lapse together; each claim takes back a batch, and none is missed."""
    source = await open_source(lease=30)
    names = [f"{number}" for number in range(2500)]
    await source.send(outgoing(*names))
    assert 2500 == len(await claim(source, 2500))
    clock.advance(31)

    first = await source.receive(10, 0)
    stats = await source.stats()
    rest = await claim(source, 2490)

    assert (2490, 10) == (stats.ready, stats.in_flight)
    assert names == bodies([*first, *rest])
    assert {(2, 1)} == {(delivery.attempt, delivery.crashes) for delivery in [*first, *rest]}


async def test_error_histories_keep_the_newest(open_source: SourceFactory) -> None:
    """Of more than MAX_ERRORS_KEPT errors the newest are kept, oldest first, and an empty error adds nothing."""
    source = await open_source()
    await source.send(outgoing("a"))
    for number in range(12):
        [delivery] = await source.receive(1, 0)
        await source.settle([delivery.retry(0, f"error {number}")])
    [delivery] = await source.receive(1, 0)

    await source.settle([delivery.dead_letter("exhausted")])
    [letter] = await source.dead_letters()

    assert [f"error {number}" for number in range(12 - MAX_ERRORS_KEPT, 12)] == list(letter.errors)


async def test_due_messages_line_up_by_their_times(open_source: SourceFactory, clock: WallClock) -> None:
    """Delayed messages that are due are claimed in the order of their times, not in that of their sending."""
    source = await open_source()
    await source.send([*outgoing("third", delay=3), *outgoing("first", delay=1), *outgoing("second", delay=2)])
    early = await source.receive(10, 0)
    clock.advance(3)

    received = await source.receive(10, 0)

    assert [] == early
    assert ["first", "second", "third"] == bodies(received)


async def test_ages_are_exact(open_source: SourceFactory, clock: WallClock) -> None:
    """`oldest_age` counts from when the next message became ready: sent, due, or free again."""
    source = await open_source(lease=30)
    ages: dict[str, float | None] = {}

    async def note(state: str) -> None:
        ages[state] = (await source.stats()).oldest_age

    await note("empty")
    await source.send(outgoing("a"))
    clock.advance(7)
    await note("sent")
    [delivery] = await source.receive(1, 0)
    await note("claimed")
    await source.settle([delivery.release()])
    await note("released")
    [delivery] = await source.receive(1, 0)
    clock.advance(35)
    await note("lapsed")
    [delivery] = await source.receive(1, 0)
    await source.settle([delivery.retry(10)])
    clock.advance(9)
    await note("delayed")
    clock.advance(4)
    await note("due")

    assert {"empty": 0, "sent": 7, "claimed": 0, "released": 7, "lapsed": 5, "delayed": 0, "due": 3} == ages


async def test_a_clock_that_is_set_back_makes_leases_longer(open_source: SourceFactory, clock: WallClock) -> None:
    """When the time of day goes back an hour, what is held stays held an hour longer, and then comes back."""
    source = await open_source(lease=30)
    await source.send(outgoing("a"))
    await source.receive(1, 0)

    clock.advance(-3600)
    at_first = await source.receive(10, 0)
    clock.advance(3629)
    before_the_end = await source.receive(10, 0)
    clock.advance(1)
    after_the_end = await source.receive(10, 0)

    assert ([], [], ["a"]) == (at_first, before_the_end, bodies(after_the_end))


async def test_dead_letters_of_one_id_have_different_names(open_source: SourceFactory) -> None:
    """A sender that used an id several times finds each dead letter under a name of its own."""
    source = await open_source()
    await source.send([Outgoing(body=b"%d" % number, message_id="same") for number in range(4)])
    one, *others = await source.receive(10, 0)
    await source.settle([one.dead_letter("rejected")])

    await source.settle([delivery.dead_letter("rejected") for delivery in others])
    names = [letter.message_id for letter in await source.dead_letters()]
    [third] = await source.dead_letters(ids=[names[2]])
    redriven = await source.redrive([names[2], names[2], "unknown"])
    [back] = await source.receive(10, 0)

    assert "same" == names[0]
    assert 4 == len(set(names))
    assert (b"2", 1) == (third.body, redriven)
    assert (b"2", "same") == (back.body, back.message_id)


async def test_dead_letters_by_the_thousand(open_source: SourceFactory) -> None:
    """More dead letters than one transaction takes are listed page by page, redriven and purged, all of them."""
    source = await open_source()
    names = [f"{number:04}" for number in range(1200)]
    await source.send(outgoing(*names))
    await source.settle([delivery.dead_letter("rejected", "no") for delivery in await claim(source, 1200)])

    listed: list[str] = []
    while page := await source.dead_letters(limit=500, after=listed[-1] if listed else None):
        listed += [letter.message_id for letter in page]
    redriven = await source.redrive(names[:700])
    first = await claim(source, 1200, within=0)
    await source.settle([delivery.dead_letter("rejected") for delivery in first])
    redriven_again, purged_none = await source.redrive(), await source.purge()
    again = await claim(source, 1200, within=0)
    await source.settle([delivery.dead_letter("rejected") for delivery in again])
    purged = await source.purge()

    assert names == listed
    assert (700, 1200, 0, 1200) == (redriven, redriven_again, purged_none, purged)
    assert names[:700] == bodies(first)
    assert [*names[700:], *names[:700]] == bodies(again)
    assert {(1, 0)} == {(delivery.attempt, delivery.crashes) for delivery in again}


async def test_a_redrive_of_all_ends_while_messages_die_again(
    open_source: SourceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What dies while all dead letters are redriven stays dead: the redrive doesn't chase it for ever."""
    source, worker = await open_source(), await open_source()
    await source.send(outgoing(*(f"{number}" for number in range(600))))
    await source.settle([delivery.dead_letter("rejected") for delivery in await claim(source, 600)])
    ask = source._ask

    async def ask_and_kill(thread: ConnectionThread, request: Request) -> Any:
        answer = await ask(thread, request)
        revived = await worker.receive(1000, 0)
        await worker.settle([delivery.dead_letter("rejected") for delivery in revived])
        return answer

    monkeypatch.setattr(source, "_ask", ask_and_kill)

    assert 600 == await source.redrive()
    assert 600 == (await worker.stats()).dead


async def test_a_page_after_a_dead_letter_that_is_gone_starts_anew(open_source: SourceFactory) -> None:
    """Listing goes on from the oldest when the last one of the page before was purged meanwhile."""
    source = await open_source()
    await source.send(outgoing("a", "b", "c"))
    await source.settle([delivery.dead_letter("rejected") for delivery in await source.receive(3, PATIENCE)])
    await source.purge(["a"])

    assert ["b", "c"] == [letter.message_id for letter in await source.dead_letters(after="a")]
    assert ["c"] == [letter.message_id for letter in await source.dead_letters(after="b")]
