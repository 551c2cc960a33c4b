"""What a queue's things on the broker are called."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["QueueNames", "check_queue"]

#: Bytes of a queue's name: AMQP takes 255, and the names beside it are longer.
_MOST_BYTES = 200


def check_queue(queue: str) -> str:
    """Return `queue` if RabbitMQ takes it as the name of a queue of ours.

    Raises:
        ValueError: It is empty, too long, or begins with `amq.`, which RabbitMQ keeps for itself.
    """
    if not queue or len(queue.encode()) > _MOST_BYTES:
        raise ValueError(f"a RabbitMQ queue's name has 1 to {_MOST_BYTES} bytes")
    if queue.startswith("amq."):
        raise ValueError("names that begin with amq. are RabbitMQ's own: give the queue another name")
    return queue


class QueueNames(NamedTuple):
    """The names of one queue.

    Attributes:
        work: The queue that workers consume.
        dead: The queue of its dead letters.
        delays: The exchange, and the queue that keeps nothing, which know the delay queues there have been.
    """

    work: str
    dead: str
    delays: str

    @classmethod
    def of(cls, queue: str) -> QueueNames:
        """Return the names for a queue."""
        return cls(work=queue, dead=f"{queue}.dead", delays=f"{queue}.delays")

    def delay(self, milliseconds: int) -> str:
        """Return the name of the queue in which messages wait that long."""
        return f"{self.delay_prefix}{milliseconds}"

    @property
    def delay_prefix(self) -> str:
        """What the names of the delay queues begin with."""
        return f"{self.work}.delay."
