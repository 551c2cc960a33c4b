"""Claims and settlements on a Redis list: what is kept where, in which order, and what is left afterwards."""

from __future__ import annotations

import asyncio
import time

import pytest

from qbridge import Delivery, Settled
from qbridge_redis.keys import QueueKeys
from tests.backends.redis.conftest import SourceFactory
from tests.backends.redis.steps import bodies, calls, outgoing, receive_all, until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.mark.parametrize(
    "body", [b"5", b"", b"\xff\xfe\x00", bytes(range(256)), b"\r\n$5\r\n", "ключ".encode(), b"x" * 300_000]
)
async def test_what_anybody_pushes_arrives_as_it_was(
    redis_server: RedisServer, open_source: SourceFactory, key: str, body: bytes
) -> None:
    """A foreign LPUSH needs no envelope, and its bytes are delivered unchanged."""
    source = await open_source(redis_server, key)
    redis_server.cli("-x", "LPUSH", key, stdin=body)

    [delivery] = await source.receive(10, 5)

    assert body == delivery.body
    assert (1, 0, None) == (delivery.attempt, delivery.crashes, delivery.enqueued_at)


async def test_the_waiting_messages_are_a_plain_list(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """What is sent lies in the list under the very key, newest on the left, bodies only."""
    source = await open_source(redis_server, key)

    await source.send(outgoing(b"first", b"second"))

    assert "second\nfirst" == redis_server.cli("LRANGE", key, 0, -1)


async def test_messages_are_taken_from_the_right(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """First in, first out, over several sends and several claims."""
    source = await open_source(redis_server, key)
    await source.send(outgoing(b"1", b"2", b"3"))
    redis_server.cli("LPUSH", key, "4", "5")

    claims = [bodies(await source.receive(2, 1)) for _ in range(3)]

    assert [[b"1", b"2"], [b"3", b"4"], [b"5"]] == claims


async def test_released_messages_come_back_first_and_in_order(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Whatever the order and the batches of the releases, the order of the queue is restored."""
    source = await open_source(redis_server, key)
    await source.send(outgoing(b"1", b"2", b"3", b"4", b"5"))
    one, two, three = await source.receive(3, 1)
    [four] = await source.receive(1, 1)

    await source.settle([four.release()])
    await source.settle([two.release(), one.release()])
    await source.settle([three.release()])

    again = await receive_all(source, 5)
    assert [b"1", b"2", b"3", b"4", b"5"] == bodies(again)
    assert [1, 1, 1, 1, 1] == [delivery.attempt for delivery in again]
    assert [one.message_id, two.message_id] == [delivery.message_id for delivery in again[:2]]


async def test_nothing_is_left_of_acknowledged_messages(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """After sends, delays, retries, releases, lapses and acks, no key of the queue exists."""
    source = await open_source(redis_server, key, lease=1.5)
    await source.send([*outgoing(b"plain"), *outgoing(b"delayed", delay=0.05)])
    first, second = await receive_all(source, 2)
    await source.settle([first.retry(0, "failed"), second.release()])
    first, second = await receive_all(source, 2)
    await asyncio.sleep(1.6)
    again = await receive_all(source, 2)

    outcomes = await source.settle([delivery.ack() for delivery in again])

    assert [Settled.DONE, Settled.DONE] == outcomes
    assert [] == [name for name in redis_server.cli("KEYS", "*").splitlines() if key in name]


async def test_no_key_has_an_expiry(redis_server: RedisServer, open_source: SourceFactory, key: str) -> None:
    """The volatile-* eviction policies can't touch a message, wherever it is."""
    source = await open_source(redis_server, key)
    await source.send([*outgoing(b"1", b"2", b"3", b"4"), *outgoing(b"5", delay=60)])
    one, two, three = await source.receive(3, 1)
    await source.settle([one.retry(60, "failed"), two.dead_letter("rejected", "bad"), three.release()])
    await source.receive(1, 1)

    existing = [name for name in redis_server.cli("KEYS", "*").splitlines() if key in name]

    assert {name for name in QueueKeys.of(key).all() if not name.endswith("arrived")} == set(existing)
    assert {"-1"} == {redis_server.cli("TTL", name) for name in existing}


async def test_a_lapsed_lease_lets_another_worker_claim(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A worker that gives no sign of life loses its message: one more attempt, one crash, the same id and bytes."""
    dead = await open_source(redis_server, key, lease=0.2)
    other = await open_source(redis_server, key, lease=0.2)
    await dead.send(outgoing(b"x"))
    [delivery] = await dead.receive(1, 1)

    [again] = await receive_all(other, 1)

    assert (b"x", delivery.message_id, 2, 1) == (again.body, again.message_id, again.attempt, again.crashes)
    assert delivery.receipt != again.receipt


@pytest.mark.parametrize("action", ["ack", "retry", "release", "dead_letter"])
async def test_a_late_settlement_is_lost_and_changes_nothing(
    redis_server: RedisServer, open_source: SourceFactory, key: str, action: str
) -> None:
    """Once another worker has the message, the first one can't end, return or bury it."""
    late = await open_source(redis_server, key, lease=0.2)
    other = await open_source(redis_server, key, lease=0.2)
    await late.send(outgoing(b"x"))
    [delivery] = await late.receive(1, 1)
    [again] = await receive_all(other, 1)
    settlement = {
        "ack": delivery.ack(),
        "retry": delivery.retry(0),
        "release": delivery.release(),
        "dead_letter": delivery.dead_letter("rejected"),
    }[action]

    outcome = await late.settle([settlement])

    assert [Settled.LOST] == outcome
    assert [delivery] == await late.keep_alive([delivery])
    assert [] == await other.keep_alive([again])
    assert [Settled.DONE] == await other.settle([again.ack()])


async def test_outcomes_keep_the_order_of_mixed_settlements(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """In one call with every kind of settlement, each outcome stands at the place of its settlement."""
    source = await open_source(redis_server, key)
    await source.send(outgoing(*[b"%d" % number for number in range(6)]))
    one, two, three, four, five, six = await source.receive(6, 1)
    await source.settle([two.ack(), five.ack()])

    outcomes = await source.settle(
        [one.retry(60), two.ack(), three.ack(), four.release(), five.dead_letter("rejected"), six.dead_letter("x")]
    )

    done, lost = Settled.DONE, Settled.LOST
    assert [done, lost, done, done, lost, done] == outcomes
    stats = await source.stats()
    assert (1, 1, 0, 1) == (stats.ready, stats.delayed, stats.in_flight, stats.dead)


async def test_a_lapsed_lease_that_nobody_took_is_still_held(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A worker that was merely slow renews and settles as long as no other has taken its message away."""
    source = await open_source(redis_server, key, lease=0.1)
    await source.send(outgoing(b"x"))
    [delivery] = await source.receive(1, 1)
    await asyncio.sleep(0.15)

    assert [] == await source.keep_alive([delivery])
    assert [Settled.DONE] == await source.settle([delivery.ack()])


async def test_settling_costs_the_same_with_ten_thousand_in_flight(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """The server runs a fixed number of cheap commands for a settlement, however many others are in flight."""
    source = await open_source(own_server, key)
    in_flight: list[Delivery] = []
    while len(in_flight) < 10_000:
        await source.send(outgoing(*[b"x" * 20] * 500))
        in_flight += await source.receive(500, 0)
    await source.settle([in_flight[0].ack()])
    await source.keep_alive(in_flight[1:2])
    own_server.cli("CONFIG", "RESETSTAT")

    outcomes = await source.settle([delivery.ack() for delivery in in_flight[4000:4100]])
    lost = await source.keep_alive(in_flight[5000:5100])

    counted = calls(own_server)
    counted.pop("config|resetstat", None)
    assert [Settled.DONE] * 100 == outcomes
    assert [] == lost
    assert {"evalsha": 2, "time": 2, "zrem": 1, "hdel": 1, "zmscore": 2, "zadd": 1} == counted
    assert 9_899 == (await source.stats()).in_flight


async def test_a_batch_is_claimed_and_settled_in_one_round_trip_each(
    own_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A hundred messages cost two scripts, not two hundred."""
    source = await open_source(own_server, key)
    await source.send(outgoing(b"warm"))
    await source.settle([delivery.ack() for delivery in await source.receive(1, 0)])
    await source.send(outgoing(*[b"x"] * 100))
    own_server.cli("CONFIG", "RESETSTAT")

    deliveries = await source.receive(100, 0)
    await source.settle([delivery.ack() for delivery in deliveries])

    assert 100 == len(deliveries)
    assert 2 == calls(own_server)["evalsha"]


async def test_a_claim_of_large_messages_is_cut_to_a_few_megabytes(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A limit of 500 doesn't mean 500 MB in one reply: what doesn't fit waits for the next claim."""
    source = await open_source(redis_server, key, lease=60)
    body = b"x" * 1_000_000
    await source.send(outgoing(*[body] * 20))

    sizes = []
    while deliveries := await source.receive(500, 0):
        sizes.append(len(deliveries))
        await source.settle([delivery.ack() for delivery in deliveries])

    assert 20 == sum(sizes)
    assert max(sizes) <= 8


async def test_more_than_one_claim_can_hold_is_received_in_several(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A limit over 500 is cut, never exceeded, and nothing is skipped."""
    source = await open_source(redis_server, key)
    await source.send(outgoing(*[b"%d" % number for number in range(1200)]))

    sizes, seen = [], []
    for _ in range(3):
        deliveries = await source.receive(1000, 0)
        sizes.append(len(deliveries))
        seen += bodies(deliveries)

    assert [500, 500, 200] == sizes
    assert [b"%d" % number for number in range(1200)] == seen


async def test_after_a_mass_lapse_everything_is_claimed_again(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Leases are taken back in bounded steps, but all of them, and the order of the queue holds."""
    dead = await open_source(redis_server, key, lease=1.5)
    other = await open_source(redis_server, key, lease=1.5)
    await dead.send(outgoing(*[b"%03d" % number for number in range(450)]))
    assert 450 == len(await dead.receive(500, 1))
    await asyncio.sleep(1.6)

    again = await receive_all(other, 450)

    assert [b"%03d" % number for number in range(450)] == bodies(again)
    assert {(2, 1)} == {(delivery.attempt, delivery.crashes) for delivery in again}


async def test_delayed_messages_know_when_they_were_sent(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A message that waits in the broker carries its time, which a plain list can't."""
    source = await open_source(redis_server, key)
    before = time.time()
    await source.send(outgoing(b"x", delay=0.05))

    [delivery] = await receive_all(source, 1)

    assert delivery.enqueued_at is not None
    assert before - 1 <= delivery.enqueued_at <= time.time() + 1
    assert 1 == delivery.attempt


async def test_messages_due_in_one_moment_keep_their_order(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Messages of one send with one delay are claimed in the order of the call."""
    source = await open_source(redis_server, key)
    await source.send(outgoing(*[b"%d" % number for number in range(20)], delay=0.05))

    assert [b"%d" % number for number in range(20)] == bodies(await receive_all(source, 20))


async def test_the_next_ready_message_is_shown_where_its_age_is_unknown(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """A list keeps no times, so the statistics carry the next body instead; for a delayed message they know the age."""
    source = await open_source(redis_server, key)
    empty = await source.stats()
    await source.send(outgoing(b"next", b"after"))
    listed = await source.stats()
    await source.settle([delivery.ack() for delivery in await source.receive(2, 1)])
    await source.send(outgoing(b"due", delay=0.01))
    await asyncio.sleep(0.05)
    due = await source.stats()

    assert (0.0, None) == (empty.oldest_age, empty.oldest_body)
    assert (None, b"next", 2) == (listed.oldest_age, listed.oldest_body, listed.ready)
    assert due.oldest_age is not None
    assert 0.03 <= due.oldest_age < 10
    assert (1, 0) == (due.ready, due.delayed)


async def test_a_large_batch_is_sent_whole_and_in_order(
    redis_server: RedisServer, open_source: SourceFactory, key: str
) -> None:
    """Batches over what one command takes are split without a gap, with and without delays among them."""
    source = await open_source(redis_server, key)
    messages = outgoing(*[b"%04d" % number + b"x" * 9000 for number in range(1100)])
    messages[1050].delay = 60

    await source.send(messages)

    stats = await source.stats()
    assert (1099, 1) == (stats.ready, stats.delayed)
    received = [delivery.body[:4] for delivery in await receive_all(source, 1099)]
    assert [b"%04d" % number for number in range(1100) if number != 1050] == received


async def test_a_queue_lives_on_a_node_of_a_cluster(open_source: SourceFactory) -> None:
    """Every key that a script touches is in one slot: a cluster node, which checks that, runs all of them."""
    with RedisServer(arguments=("--cluster-enabled", "yes")) as server:
        server.cli("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: "cluster_state:ok" in server.cli("CLUSTER", "INFO"))
        source = await open_source(server, "shop:{eu}:orders")
        await source.send([*outgoing(b"1", b"2", b"3"), *outgoing(b"4", delay=0.01)])

        one, two, three = await source.receive(3, 1)
        await source.settle([one.retry(0, "failed"), two.dead_letter("rejected", "bad"), three.release()])
        await source.keep_alive(await receive_all(source, 3))
        letters = await source.dead_letters()
        redriven = await source.redrive()
        stats = await source.stats()

    assert (1, 1) == (len(letters), redriven)
    assert (1, 0, 3, 0) == (stats.ready, stats.delayed, stats.in_flight, stats.dead)
