"""The mover loses nothing: whatever fails, a message is on one of the queues, and mostly on just one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest

from qbridge import (
    DeadLetterReason,
    Delivery,
    MessageTooLargeError,
    Outgoing,
    Settled,
    Settlement,
    SourceFull,
    SourceUnavailable,
    TaskMessage,
)
from qbridge.cli.moving import BATCH, MoveError, Mover, Place
from qbridge.codec import Codec, JsonCodec, RawCodec
from qbridge_memory import MemoryBroker, MemoryOptions, MemorySource


class Target(MemorySource):
    """A target that takes its time, or fails."""

    def __init__(self, name: str, options: MemoryOptions, *, broker: MemoryBroker) -> None:
        super().__init__(name, options, broker=broker)
        self.takes = 0.0
        self.fault: Exception | None = None
        self.is_asked = asyncio.Event()
        #: Batches that it takes before it is slow, or fails.
        self.good = 0
        self.ids: list[str] = []

    async def send(self, messages: Sequence[Outgoing]) -> None:
        self.is_asked.set()
        if self.good:
            self.good -= 1
        else:
            await asyncio.sleep(self.takes)
            if self.fault is not None:
                raise self.fault
        self.ids += [message.message_id for message in messages]
        await super().send(messages)


class Origin(MemorySource):
    """An origin whose settling may fail a few times."""

    faults = 0

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[Settled]:
        if self.faults:
            self.faults -= 1
            raise SourceUnavailable("the connection is lost")
        return await super().settle(settlements)


class Scene:
    """Two queues in memory and a mover between them."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.origin = Origin("a", MemoryOptions(lease=60), broker=self.broker)
        self.target = Target("b", MemoryOptions(), broker=self.broker)
        self.shown: list[int] = []

    async def mover(self, bodies: Iterable[bytes], *, codec: Codec | None = None, largest: int = 1000) -> Mover:
        """Send the bodies to the origin; return a mover."""
        await self.origin.open()
        await self.target.open()
        await self.origin.send([Outgoing(body=body, message_id=f"m{n}") for n, body in enumerate(bodies)])
        codec = JsonCodec() if codec is None else codec
        return Mover(
            Place("a", self.origin, codec, 10**6), Place("b", self.target, codec, largest), show=self.shown.append
        )

    async def left(self) -> list[bytes]:
        """Return what is ready in the origin, none of it tried before; nothing may be in flight there."""
        stats = await self.origin.stats()
        assert (0, 0, 0) == (stats.delayed, stats.in_flight, stats.dead)
        deliveries = await self.origin.receive(10**6, 0)
        assert {(1, 0)} >= {(delivery.attempt, delivery.crashes) for delivery in deliveries}
        return [delivery.body for delivery in deliveries]

    async def arrived(self) -> list[bytes]:
        """Return what is in the target."""
        return [delivery.body for delivery in await self.target.receive(10**6, 0)]


@pytest.fixture
def scene() -> Scene:
    """Two queues."""
    return Scene()


BODIES = [b"%d" % number for number in range(250)]


async def test_all_is_moved_in_order_byte_for_byte(scene: Scene) -> None:
    """Every message arrives once, in its order, whatever its bytes are; nothing is left."""
    bodies = [b"\x00\xff", b"", *BODIES]
    mover = await scene.mover(bodies)

    await mover.move(1000)

    assert bodies == await scene.arrived()
    assert [] == await scene.left()
    assert (len(bodies), 0, 0) == (mover.moved, mover.doubled, mover.without_headers)
    assert [100, 200, 252] == scene.shown


async def test_no_more_than_the_limit_is_moved(scene: Scene) -> None:
    """The first `limit` messages move, and the rest is not even claimed."""
    mover = await scene.mover(BODIES)

    await mover.move(130)

    assert BODIES[:130] == await scene.arrived()
    assert BODIES[130:] == await scene.left()


async def test_a_queue_moved_onto_itself_is_gone_through_once(scene: Scene) -> None:
    """Two names of one queue make no endless move: as many are moved as were to be."""
    await scene.mover(BODIES)
    place = Place("a", scene.origin, JsonCodec(), 1000)
    mover = Mover(place, place)

    await mover.move(len(BODIES))

    assert BODIES == await scene.left()


async def test_leases_are_kept_while_the_target_is_slow(scene: Scene) -> None:
    """A target that takes four leases for a batch gets each message once."""
    scene.origin = Origin("a", MemoryOptions(lease=0.3), broker=scene.broker)
    scene.target.takes = 1.2
    mover = await scene.mover(BODIES[:10])
    thief = MemorySource("a", MemoryOptions(lease=60), broker=scene.broker)
    await thief.open()

    moving = asyncio.create_task(mover.move(10))
    await scene.target.is_asked.wait()
    stolen = await thief.receive(10, 1.0)
    await moving

    assert [] == list(stolen)
    assert BODIES[:10] == await scene.arrived()
    assert [] == await scene.left()
    assert 0 == mover.doubled


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(SourceFull("no room"), SourceFull), (SourceUnavailable("it is gone"), MoveError), (OSError("a bug"), OSError)],
)
async def test_what_the_target_does_not_take_is_released(
    fault: Exception, raised: type[Exception], scene: Scene
) -> None:
    """A target that fails leaves its batch with the origin, uncounted; earlier batches stay moved."""
    mover = await scene.mover(BODIES)
    scene.target.good, scene.target.fault = 1, fault

    with pytest.raises(raised, match=str(fault)):
        await mover.move(1000)

    assert BATCH == mover.moved
    assert BODIES[:BATCH] == await scene.arrived()
    assert BODIES[BATCH:] == await scene.left()


async def test_an_unknown_outcome_is_told(scene: Scene) -> None:
    """After a target was lost the text says that messages went back and may be there too."""
    mover = await scene.mover(BODIES[:3])
    scene.target.fault = SourceUnavailable("queue 'b' is gone")

    with pytest.raises(MoveError) as caught:
        await mover.move(3)

    assert (
        "queue 'b' is gone; 3 messages went back to queue 'a', and it is not known whether queue 'b' has them too"
        == str(caught.value)
    )


async def test_a_lost_origin_is_asked_again(scene: Scene) -> None:
    """Acknowledgements that fail are repeated over a new connection: nothing is left to be moved twice."""
    mover = await scene.mover(BODIES[:3])
    scene.origin.faults = 2

    await mover.move(3)

    assert BODIES[:3] == await scene.arrived()
    assert [] == await scene.left()


async def test_an_origin_that_stays_away_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the origin never hears of the move, the text says that the messages may be in both queues."""
    monkeypatch.setattr("qbridge.cli.moving._ACK_PATIENCE", 0.1)
    mover = await scene.mover(BODIES[:3])
    scene.origin.faults = 100

    with pytest.raises(MoveError, match="3 messages may be in both queues"):
        await mover.move(3)

    assert BODIES[:3] == await scene.arrived()
    assert 3 == mover.moved


async def test_a_lost_lease_is_counted(scene: Scene) -> None:
    """A message that somebody else got before the target had confirmed counts as doubled."""
    mover = await scene.mover(BODIES[:3])
    scene.target.takes = 0.3
    moving = asyncio.create_task(mover.move(3))
    await scene.target.is_asked.wait()

    # All deliveries of the origin, as the leases of a process that stood still would end.
    in_flight = scene.broker.queue("a")._in_flight[60]
    deliveries = [Delivery(body=b"", receipt=receipt, message_id="") for receipt in list(in_flight)[:1]]
    scene.broker.queue("a").settle([delivery.release() for delivery in deliveries], 60)
    await moving

    assert (3, 1) == (mover.moved, mover.doubled)


async def test_a_message_too_large_for_the_target_ends_the_move(scene: Scene) -> None:
    """What came before it is moved; it and all behind it are back, in their order."""
    mover = await scene.mover([b"1", b"2", b"x" * 1001, b"4"])

    with pytest.raises(MessageTooLargeError, match="1001 bytes, over the limit of 1000"):
        await mover.move(4)

    assert [b"1", b"2"] == await scene.arrived()
    assert [b"x" * 1001, b"4"] == await scene.left()


async def test_stop_releases_what_was_claimed_and_not_sent(scene: Scene) -> None:
    """A stop that comes while messages are being claimed puts them back."""
    mover = await scene.mover([])
    moving = asyncio.create_task(mover.move(10))
    await asyncio.sleep(0)

    mover.stop()
    await scene.origin.send([Outgoing(body=b"late", message_id="m")])
    await moving

    assert [b"late"] == await scene.left()
    assert 0 == mover.moved


async def test_stop_ends_a_wait(scene: Scene) -> None:
    """A receive that waits for messages ends at once."""
    mover = await scene.mover([])
    moving = asyncio.create_task(mover.move(10))
    await asyncio.wait([moving], timeout=0.1)
    began = time.monotonic()

    mover.stop()
    await moving

    assert time.monotonic() - began < 1


async def test_stop_finishes_the_batch_on_its_way(scene: Scene) -> None:
    """A batch that is being sent when the stop comes is confirmed and acknowledged; the next is not begun."""
    scene.target.takes = 0.2
    mover = await scene.mover(BODIES)
    moving = asyncio.create_task(mover.move(1000))
    await scene.target.is_asked.wait()

    mover.stop()
    await moving

    assert BODIES[:BATCH] == await scene.arrived()
    assert BODIES[BATCH:] == await scene.left()


async def test_stop_gives_up_a_target_that_hangs(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that doesn't answer can't hold the command: its batch is released after a moment."""
    monkeypatch.setattr("qbridge.cli.moving._SEND_TIMEOUT_STOPPING", 0.1)
    scene.target.takes = 60
    mover = await scene.mover(BODIES[:3])
    moving = asyncio.create_task(mover.move(3))
    await scene.target.is_asked.wait()

    mover.stop()
    with pytest.raises(MoveError, match="queue 'b' did not take 3 messages in time"):
        await moving

    assert BODIES[:3] == await scene.left()


async def test_headers_travel_where_both_can(scene: Scene) -> None:
    """Headers arrive with their message; a target that can't carry them is counted."""
    for can in (True, False):
        scene.target.capabilities = replace(scene.target.capabilities, headers=can)
        mover = await scene.mover([])
        await scene.origin.send([Outgoing(body=b"", message_id="m", headers={"trace": "1"})])

        await mover.move(1)
        [arrived] = await scene.target.receive(1, 0)

        assert ({"trace": "1"} if can else {}) == dict(arrived.headers)
        assert int(not can) == mover.without_headers


async def test_a_task_keeps_its_id_and_nothing_else_gets_one_twice(scene: Scene) -> None:
    """The target is told a task's own id; what is no task gets a new one, however the origin's broker calls it."""
    message = TaskMessage(task="t")
    mover = await scene.mover([JsonCodec().encode(message), b"not a task", b"not a task"])

    await mover.move(3)

    assert message.id == scene.target.ids[0]
    assert 3 == len(set(scene.target.ids))
    assert not {"m0", "m1", "m2"} & set(scene.target.ids)


async def test_a_raw_message_gets_a_new_id(scene: Scene) -> None:
    """On a raw queue a broker's name for a message may be that of many, so it is not passed on."""
    mover = await scene.mover([b"5", b"5"], codec=RawCodec("t"))

    await mover.move(2)

    assert 2 == len(set(scene.target.ids))


async def test_what_is_dead_stays(scene: Scene) -> None:
    """Dead letters are not moved."""
    mover = await scene.mover([b"dead", b"alive"])
    [delivery] = await scene.origin.receive(1, 0)
    await scene.origin.settle([delivery.dead_letter(DeadLetterReason.REJECTED)])

    await mover.move(1)

    assert [b"alive"] == await scene.arrived()
    assert 1 == (await scene.origin.stats()).dead
