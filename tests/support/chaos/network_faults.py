"""Network faults: what stands between workers, a producer and a broker plays the faults of a network.

Workers and the producer reach the broker through a proxy each, so that a fault of one side is none of the other's.
Whose runs a fault may repeat is said as narrowly as the backends promise it:

- a fault of the producer's side repeats nothing;
- on Redis a lost connection repeats nothing, as a claim or a settlement whose reply was lost is recognised, and leases
  outlive the outage; only what lasts longer than a lease repeats something;
- on RabbitMQ what a lost connection had delivered comes again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from typing import Any

from qbridge.testing import TcpProxy
from qbridge.testing.proxied_connection import Direction
from qbridge_redis.scripts import load_scripts
from tests.support.chaos.brokers import Broker
from tests.support.chaos.campaign import Campaign
from tests.support.chaos.incidents import Fault, Incident

__all__ = ["IMPATIENCE", "Network", "network_between", "network_faults", "silences"]

#: The module of handlers that makes workers less patient with a dead connection than they are by default.
IMPATIENCE = "tests.support.chaos.impatience"

#: Seconds within which a broker must answer a command, or a connection be made.
ANSWER = 1

#: Seconds of a lease on Redis: longer than any outage but those that mean to outlive it.
LONG_LEASE = 6

#: Seconds after a fault in which a worker may start what a connection had brought that is lost.
AFTERMATH = 0.5

#: Seconds within which a fault is met under load, and a lost connection made again.
MET = 15.0

#: Seconds within which a connection is given up on which nothing comes, by impatient workers and by others.
NOTICED, NOTICED_BY_PATIENT = 20.0, 100.0

#: Faults that only the long form has, by how their names begin.
ONLY_LONG = (
    "workers: renewal",
    "workers: cut at once",
    "workers: black hole both ways",
    "workers: black hole for",
    "producer: cut at once",
    "producer: black hole",
    "producer: stall",
    "producer: latency",
    "producer: client gone",
    "producer: connections refused",
)

#: Bytes after which a connection is cut: within a handshake, a command, a frame, and between them. The short form
#: takes two.
COUNTS = (400, 6000, 1, 8, 77, 1500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A broker, and what stands before it.

    Attributes:
        broker: The broker, its queue reached through `workers`.
        producer_queue: The queue's keys, reached through `producer`.
        workers: Between the workers and the broker.
        producer: Between the producer and the broker.
    """

    broker: Broker
    producer_queue: dict[str, Any]
    workers: TcpProxy
    producer: TcpProxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """By what steps of a message's way are known on the wire. AMQP has no request for a delivery.

    Attributes:
        claims: Requests for messages, each with its name.
        settlements: Requests that settle, each with its name.
        sends: Requests that send, each with its name.
        deliveries: What brings messages unasked, with its name.
    """

    claims: dict[str, bytes]
    settlements: dict[str, bytes]
    sends: dict[str, bytes]
    deliveries: dict[str, bytes] = field(default_factory=dict)


def _amqp(method: int) -> bytes:
    """Return how a frame of a method of the class `basic` begins."""
    return b"\x00\x3c" + method.to_bytes(2)


def _wire_of(backend: str) -> Wire:
    if backend == "redis":
        scripts = load_scripts()
        return Wire(
            claims={"claim": scripts.claim.digest.encode()},
            settlements={"settlement": scripts.settle.digest.encode(), "renewal": scripts.keep_alive.digest.encode()},
            sends={"send": b"LPUSH", "delayed send": scripts.send.digest.encode()},
        )
    # 20 consume, 40 publish, 60 deliver, 80 ack. A retry is a copy that is published and an original that is acked.
    return Wire(
        claims={"consumption": _amqp(20)},
        settlements={"settlement": _amqp(80), "copy": _amqp(40)},
        sends={"send": _amqp(40)},
        deliveries={"delivery": _amqp(60)},
    )


@contextmanager
def network_between(broker: Broker, *, is_patient: bool = False) -> Iterator[Network]:
    """Put proxies before a broker.

    Args:
        broker: The broker.
        is_patient: Whether leases, heartbeats and time limits are those that users have by default.
    """
    server = broker.redis or broker.rabbitmq
    assert server is not None
    queue = dict(broker.queue)
    if is_patient:
        queue = {key: value for key, value in queue.items() if key not in ("lease", "heartbeat")}
    else:
        queue |= {"connect_timeout": f"{ANSWER}s", "command_timeout": f"{ANSWER}s"}
        if broker.backend == "redis":
            queue["lease"] = f"{LONG_LEASE}s"
    with ExitStack() as stack:
        workers, producer = (stack.enter_context(TcpProxy("127.0.0.1", server.port)) for _ in range(2))

        def through(proxy: TcpProxy) -> dict[str, Any]:
            assert f":{server.port}" in queue["url"]
            return {**queue, "url": queue["url"].replace(f":{server.port}", f":{proxy.port}")}

        yield Network(
            broker=replace(broker, queue=through(workers)),
            producer_queue=through(producer),
            workers=workers,
            producer=producer,
        )


def network_faults(network: Network, *, is_short: bool) -> list[Fault]:
    """Return the faults of a network; the short form leaves out what differs little from what it has."""
    wire = _wire_of(network.broker.backend)
    workers, producer = _Side(network, network.workers), _Side(network, network.producer)
    counts = COUNTS[:2] if is_short else COUNTS
    faults = [
        *workers.cut_at_requests(wire.claims | wire.settlements),
        *workers.cut_at_replies(wire.deliveries),
        *workers.hold_replies(wire.claims),
        *producer.cut_at_requests(wire.sends),
        *(workers.cut_after(count, direction) for direction in ("requests", "replies") for count in counts),
        *(producer.cut_after(count, direction) for direction in ("requests", "replies") for count in counts[::2]),
        *workers.breaks(),
        *workers.silences(),
        *workers.harmless(),
        *producer.breaks(),
        *producer.silences(),
        *producer.harmless(),
    ]
    if not is_short:
        faults.append(workers.silence_beyond_leases())
        return faults
    return [fault for fault in faults if not any(fault.name.startswith(text) for text in ONLY_LONG)]


def silences(network: Network) -> list[Fault]:
    """Return what clients find out by time limits and heartbeats only, for clients with those of users."""
    return [*_Side(network, network.workers, noticed=NOTICED_BY_PATIENT, outlives_leases=True).silences()]


class _Side:
    """The faults between one side and the broker.

    Args:
        network: All of the network.
        proxy: The side's.
        noticed: Seconds within which it gives up a connection on which nothing comes.
        outlives_leases: Whether outages may be longer than leases: the pauses between attempts to connect grow.
    """

    def __init__(
        self, network: Network, proxy: TcpProxy, *, noticed: float = NOTICED, outlives_leases: bool = False
    ) -> None:
        self._proxy = proxy
        self._noticed = noticed
        self._is_workers = proxy is network.workers
        self._repeats = self._is_workers and (outlives_leases or network.broker.backend == "rabbitmq")
        # Workers and RabbitMQ's producers have two connections each.
        self._connections = 4 if self._is_workers else 2 if network.broker.backend == "rabbitmq" else 1

    def cut_at_requests(self, markers: dict[str, bytes]) -> Iterable[Fault]:
        """Yield cuts before a request reaches the broker, and before its reply reaches the client."""
        for step, marker in markers.items():
            yield self._fault(
                f"{step}: request lost", self._cut_once(marker, lambda m: self._proxy.cut_at(m, "requests"))
            )
            yield self._fault(f"{step}: reply lost", self._cut_once(marker, self._proxy.cut_reply_to))

    def cut_at_replies(self, markers: dict[str, bytes]) -> Iterable[Fault]:
        """Yield cuts before something reaches the client that the broker has sent unasked."""
        for step, marker in markers.items():
            yield self._fault(f"{step} lost", self._cut_once(marker, lambda m: self._proxy.cut_at(m, "replies")))

    def hold_replies(self, markers: dict[str, bytes]) -> Iterable[Fault]:
        """Yield silences of the one connection that asks for something, while the client's other one is well."""
        for step, marker in markers.items():

            def inject(marker: bytes = marker) -> None:
                accepted = self._proxy.accepted
                self._proxy.hold_reply_to(marker)
                self._proxy.wait_for(lambda: self._proxy.accepted > accepted, self._noticed)

            yield self._fault(f"{step}: reply held", inject)

    def cut_after(self, count: int, direction: Direction) -> Fault:
        """Return cuts after so many bytes, of a connection that is under way, and then of one from its beginning."""

        def inject() -> None:
            for is_new in (False, True):
                if is_new:  # clients pause before they come again
                    self._proxy.cut()
                cuts = self._proxy.cuts
                self._proxy.cut_after(count, direction)
                self._wait_for_cut(cuts)

        return self._fault(f"cut after N bytes of {direction}", inject)

    def breaks(self) -> Iterable[Fault]:
        """Yield what clients are told of at once."""
        yield self._fault("cut at once", lambda: self._cut_all(reset=False))
        yield self._fault("reset", lambda: self._cut_all(reset=True))
        yield self._fault(
            "client gone, broker not told", lambda: self._silence(lambda: self._proxy.half_open("client"))
        )
        yield self._fault("connections refused", self._refuse)

    def silences(self) -> Iterable[Fault]:
        """Yield what clients find out by time limits and heartbeats only."""
        for name, begin in {
            "broker gone, client not told": lambda: self._proxy.half_open("server"),
            "stall beyond time limits": self._proxy.hold,
            "black hole both ways": self._proxy.swallow,
            "black hole for requests": lambda: self._proxy.swallow("requests"),
            "black hole for replies": lambda: self._proxy.swallow("replies"),
        }.items():
            yield self._fault(name, partial(self._silence, begin))

    def silence_beyond_leases(self) -> Fault:
        """Return a black hole that lasts until leases have run out."""

        def inject() -> None:
            self._proxy.swallow()
            time.sleep(LONG_LEASE + 1)  # the fault itself

        return self._fault("black hole beyond leases", inject, repeats=self._is_workers)

    def harmless(self) -> Iterable[Fault]:
        """Yield what no connection is given up for."""
        yield self._fault("stall within time limits", lambda: self._bear(self._proxy.hold, ANSWER / 3), repeats=False)
        yield self._fault(
            "latency", lambda: self._bear(lambda: self._proxy.delay(requests=0.06, replies=0.06), 0.8), repeats=False
        )

    def _fault(self, name: str, inject: Callable[[], None], *, repeats: bool | None = None) -> Fault:
        name = f"{'workers' if self._is_workers else 'producer'}: {name}"

        def inject_and_restore(campaign: Campaign, incident: Incident) -> None:
            incident.reaches_all = self._repeats if repeats is None else repeats
            incident.aftermath = AFTERMATH if incident.reaches_all else 0.0
            campaign.wait(lambda: _all_work_again(campaign), f"all workers work again, before {name}")
            self._proxy.wait_for(lambda: self._proxy.open >= self._connections, MET)
            incident.began = time.monotonic()
            try:
                inject()
            except TimeoutError as exc:
                raise AssertionError(f"{name}: {exc}") from exc
            finally:
                self._proxy.restore()

        return Fault(name=name, inject=inject_and_restore)

    def _cut_once(self, marker: bytes, set_trap: Callable[[bytes], None]) -> Callable[[], None]:
        def inject() -> None:
            cuts = self._proxy.cuts
            set_trap(marker)
            self._wait_for_cut(cuts)

        return inject

    def _wait_for_cut(self, before: int) -> None:
        self._proxy.wait_for(lambda: self._proxy.cuts > before, MET)

    def _cut_all(self, *, reset: bool) -> None:
        cuts = self._proxy.cuts
        self._proxy.cut(reset=reset)
        assert self._proxy.cuts >= cuts + self._connections, "not all were connected"

    def _silence(self, begin: Callable[[], None]) -> None:
        """Begin something, and wait until each client has given its connections up and come again."""
        accepted = self._proxy.accepted
        begin()
        self._proxy.wait_for(lambda: self._proxy.accepted >= accepted + self._connections, self._noticed)

    def _bear(self, begin: Callable[[], None], seconds: float) -> None:
        """Begin something that nobody gives up a connection for, and let it last."""
        accepted = self._proxy.accepted
        begin()
        time.sleep(seconds)  # the fault itself
        assert accepted == self._proxy.accepted, "a connection was given up too early"

    def _refuse(self) -> None:
        self._proxy.refuse()
        self._proxy.cut()
        time.sleep(1.0)  # the fault itself


def _all_work_again(campaign: Campaign) -> bool:
    """Return whether each worker has started a task since the last incident was over."""
    since = max((incident.over_at or 0.0 for incident in campaign.incidents[:-1]), default=0.0)
    later = takewhile(lambda entry: entry.at > since, reversed(campaign.ledger.entries))
    return {worker.pid for worker in campaign.workers} <= {entry.process for entry in later if entry.kind == "start"}
