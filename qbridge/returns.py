"""Returns: deliveries that come back to the very worker that works on them, or has finished with them.

Where the connection is the lease, each lost connection gives all messages in flight back to the queue, and the broker
takes that for a crash of their worker; so does a lease that ran out while the whole process was stopped. But the worker
lives: its handlers run on. If such a message comes back to it, running it again would be running it twice, and three
outages during a long handler would make it a killer. So the new delivery is put in the place of the old one, and the
handler that runs goes on for it. In the same way a message whose end reached the broker too late is settled as it
ended, and not run again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, MutableMapping
from time import monotonic
from typing import Any, NamedTuple

from qbridge.source import Action, Delivery, Settlement

__all__ = ["Returns", "settlement_for"]

#: Ends that are remembered, the newest ones: as many as may wait to be settled. A few megabytes at worst.
MAX_REMEMBERED = 5000

#: Seconds for which an end is remembered. What another worker has taken never comes back here.
REMEMBERED_FOR = 600.0


class _Ending(NamedTuple):
    """How a message ended here, without its body."""

    attempt: int
    crashes: int
    enqueued_at: float | None
    body_hash: int
    action: Action
    delay: float
    reason: str
    error: str
    at: float


class Returns:
    """What one queue's worker knows of messages that may come back to it. Belongs to the main thread's loop."""

    def __init__(self) -> None:
        # By name, what may come back though it is held here.
        self._known: dict[str, Delivery] = {}
        self._endings: OrderedDict[str, _Ending] = OrderedDict()

    def note_held(self, held: Iterable[Delivery]) -> None:
        """Note what is held, all of which may come back: its connection has ended, or its leases may have run out."""
        self._known = {delivery.message_id: delivery for delivery in held}

    def take_back(
        self, delivery: Delivery, held: MutableMapping[Delivery, Any], waiting: Iterable[Settlement]
    ) -> list[Settlement] | None:
        """Put a delivery that came back in the place of the one of which it is the return.

        Args:
            delivery: The delivery; its job, if there is one, goes on for it.
            held: Deliveries claimed and not yet settled, with their jobs; None where the job is over.
            waiting: Ends that the broker has not been told of.

        Returns:
            How it is to be settled at once; None if it is not known here, and to be run.
        """
        old = self._replaced_by(delivery, held)
        if old is None:
            ending = self._ended_before(delivery)
            if ending is None:
                return None
            held[delivery] = None
            return [ending]
        job = held[delivery] = held.pop(old)
        if job is not None:
            job.delivery = delivery
            return []
        return [settlement_for(delivery, settlement) for settlement in waiting if settlement.delivery is old]

    def note_late(self, settlement: Settlement) -> None:
        """Remember how a message ended whose settlement came too late."""
        delivery = settlement.delivery
        if settlement.action is Action.RELEASE or delivery.enqueued_at is None:
            return  # untried; or known by a name that another message may have as well
        self._endings[delivery.message_id] = _Ending(
            delivery.attempt,
            delivery.crashes,
            delivery.enqueued_at,
            hash(delivery.body),
            settlement.action,
            settlement.delay,
            settlement.reason,
            settlement.error,
            monotonic(),
        )
        self._endings.move_to_end(delivery.message_id)
        if len(self._endings) > MAX_REMEMBERED:
            self._endings.popitem(last=False)

    def _replaced_by(self, delivery: Delivery, held: Mapping[Delivery, object]) -> Delivery | None:
        """Return the delivery, still held, of which this one is the return; None if there is none. Told once."""
        old = self._known.get(delivery.message_id)
        if old is None or old not in held or not _is_return(old, delivery) or old.body != delivery.body:
            return None
        del self._known[delivery.message_id]
        return old

    def _ended_before(self, delivery: Delivery) -> Settlement | None:
        """Return how a message that comes back had ended here; None if that isn't known. Told once."""
        ending = self._endings.get(delivery.message_id)
        if ending is None or not _is_return(ending, delivery) or ending.body_hash != hash(delivery.body):
            return None
        del self._endings[delivery.message_id]
        if monotonic() - ending.at > REMEMBERED_FOR:
            return None
        return Settlement(delivery, ending.action, ending.delay, ending.reason, ending.error)


def settlement_for(delivery: Delivery, settlement: Settlement) -> Settlement:
    """Return the same end for another delivery of the message."""
    return Settlement(delivery, settlement.action, settlement.delay, settlement.reason, settlement.error)


def _is_return(old: Delivery | _Ending, new: Delivery) -> bool:
    """Return whether the broker has given up `old` and handed out the same message again."""
    return new.crashes > old.crashes and new.attempt > old.attempt and new.enqueued_at == old.enqueued_at
