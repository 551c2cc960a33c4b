"""Dead letters of a Redis queue: kept whole, listed in the order of their deaths, redriven and purged."""

from __future__ import annotations

import time

import pytest

from qbridge import MAX_ERROR_LENGTH, MAX_ERRORS_KEPT, Settled
from qbridge_redis import RedisSource
from tests.backends.redis.conftest import SourceFactory
from tests.backends.redis.steps import bodies, outgoing, receive_all
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


async def bury(source: RedisSource, count: int) -> list[str]:
    """Send this many messages and let them die in order; return their ids."""
    await source.send(outgoing(*[b"%04d" % number for number in range(count)]))
    deliveries = await receive_all(source, count)
    await source.settle([delivery.dead_letter("rejected", f"error {delivery.body!r}") for delivery in deliveries])
    return [delivery.message_id for delivery in deliveries]


async def test_a_dead_letter_keeps_bytes_reason_history_and_times(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Errors of each attempt and of the end, in any script, with whatever characters; attempts; when it died."""
    source = await open_source(redis_server, key)
    redis_server.cli("-x", "LPUSH", key, stdin=b"\xff\x00body")
    [first] = await source.receive(1, 1)
    await source.settle([first.retry(0, "5:netstring\n")])
    [second] = await receive_all(source, 1)
    await source.settle([second.retry(0)])
    [third] = await receive_all(source, 1)
    before = time.time()

    await source.settle([third.dead_letter("a reason of \udc80", "ошибка \udc80")])

    [letter] = await source.dead_letters()
    assert (first.message_id, b"\xff\x00body", 3) == (letter.message_id, letter.body, letter.attempts)
    assert ("a reason of \\udc80", ("5:netstring\n", "ошибка \\udc80")) == (letter.reason, letter.errors)
    assert before - 1 <= letter.died_at <= time.time() + 1
    assert letter.enqueued_at is None


async def test_an_error_history_is_bounded(redis_server: RedisServer, open_source: SourceFactory, key: str) -> None:
    """The newest errors are kept, each cut to its length, however often a message fails."""
    source = await open_source(redis_server, key)
    await source.send(outgoing(b"x"))
    for number in range(MAX_ERRORS_KEPT + 3):
        [delivery] = await receive_all(source, 1)
        await source.settle([delivery.retry(0, f"{number}" + "é" * MAX_ERROR_LENGTH)])
    [delivery] = await receive_all(source, 1)

    await source.settle([delivery.dead_letter("exhausted", "the end")])

    [letter] = await source.dead_letters()
    assert MAX_ERRORS_KEPT + 4 == letter.attempts
    assert MAX_ERRORS_KEPT == len(letter.errors)
    assert "the end" == letter.errors[-1]
    assert ["4é", "12"] == [letter.errors[0][:2], letter.errors[-2][:2]]
    assert {MAX_ERROR_LENGTH} == {len(error) for error in letter.errors[:-1]}


async def test_dead_letters_are_listed_page_by_page(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """In the order in which they died, also those that died in one call; a page goes on after a given one."""
    source = await open_source(redis_server, key)
    ids = await bury(source, 130)

    everything = [letter.message_id for letter in await source.dead_letters(limit=1000)]
    first = [letter.message_id for letter in await source.dead_letters()]
    second = [letter.message_id for letter in await source.dead_letters(after=first[-1])]
    beyond = await source.dead_letters(after=ids[-1])

    assert ids == everything
    assert ids == first + second
    assert 100 == len(first)
    assert [] == list(beyond)


async def test_a_list_goes_on_with_the_oldest_if_its_place_is_gone(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Who redrives page by page, each page after the last one, meets every dead letter."""
    source = await open_source(redis_server, key)
    ids = await bury(source, 25)
    seen: list[str] = []
    after = None

    while page := await source.dead_letters(limit=10, after=after):
        seen += [letter.message_id for letter in page]
        after = page[-1].message_id
        await source.purge([letter.message_id for letter in page])

    assert ids == seen


async def test_dead_letters_are_found_by_their_ids(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Those that exist, in the order of their deaths, each once; limit and place are ignored."""
    source = await open_source(redis_server, key)
    ids = await bury(source, 60)

    found = await source.dead_letters(
        ids=[ids[55], "unknown", "\udc80", ids[1], ids[1], ids[0]], limit=1, after=ids[30]
    )
    every = await source.dead_letters(ids=list(reversed(ids)))
    none = await source.dead_letters(ids=[])

    assert [ids[0], ids[1], ids[55]] == [letter.message_id for letter in found]
    assert ids == [letter.message_id for letter in every]
    assert [] == list(none)


async def test_redriven_messages_start_anew_in_their_order(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Attempts and crashes are reset; id, bytes and error history stay; nothing is left after the ack."""
    source = await open_source(redis_server, key)
    ids = await bury(source, 5)

    some = await source.redrive([ids[3], "unknown", ids[3]])
    [fourth] = await receive_all(source, 1)
    others = await source.redrive()
    rest = await receive_all(source, 4)
    await source.settle([fourth.dead_letter("again", "second error")])
    [letter] = await source.dead_letters()
    await source.redrive()
    [again] = await receive_all(source, 1)
    await source.settle([delivery.ack() for delivery in [again, *rest]])

    assert (1, 4) == (some, others)
    assert (ids[3], b"0003", 1, 0) == (fourth.message_id, fourth.body, fourth.attempt, fourth.crashes)
    assert [b"0000", b"0001", b"0002", b"0004"] == bodies(rest)
    assert ("error b'0003'", "second error") == letter.errors
    assert 1 == letter.attempts
    assert [] == [name for name in redis_server.cli("KEYS", "*").splitlines() if key in name]


async def test_many_dead_letters_are_redriven_and_purged(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """More than one step of the server can take: all of them, counted, none twice."""
    source = await open_source(redis_server, key)
    await bury(source, 1100)

    redriven = await source.redrive()
    deliveries = await receive_all(source, 1100)
    outcomes = await source.settle([delivery.dead_letter("rejected") for delivery in deliveries])
    purged = await source.purge()

    assert (1100, 1100) == (redriven, purged)
    assert {Settled.DONE} == set(outcomes)
    assert [b"%04d" % number for number in range(1100)] == bodies(deliveries)
    assert [] == [name for name in redis_server.cli("KEYS", "*").splitlines() if key in name]


async def test_purged_dead_letters_leave_nothing(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """By id or all; unknown ids are skipped; no key remains."""
    source = await open_source(redis_server, key)
    ids = await bury(source, 3)

    some = await source.purge([ids[1], "unknown"])
    remaining = [letter.message_id for letter in await source.dead_letters()]
    others = await source.purge()

    assert (1, 2) == (some, others)
    assert [ids[0], ids[2]] == remaining
    assert [] == [name for name in redis_server.cli("KEYS", "*").splitlines() if key in name]
