"""Claims: names for claims, what their replies mean, and which of them may have been lost. No I/O."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qbridge import Delivery

__all__ = ["MAX_CLAIM", "Claim", "Claims"]

#: Messages of one claim. More only makes the server deaf for longer (8 µs each, measured in November 2026).
MAX_CLAIM = 500

#: The script numbers what it claims with four digits, so that receipts sort in the order of the claim.
_SUFFIXES = [str(1000 + number) for number in range(1, MAX_CLAIM + 1)]

_HEADER = 3


@dataclass(slots=True)
class Claim:
    """One claim, from before it is sent.

    Attributes:
        token: What the receipts of its deliveries begin with. Begins with the claim's time, so that the ids of
            messages, which are their first receipts, sort by age.
        limit: How many messages it may take.
        not_after: Microsecond of the server's clock after which the server refuses it.
        over_at: When that is, on this process's monotonic clock.
        was_returned: What it took, or may have, was given back once.
    """

    token: str
    limit: int
    not_after: int
    over_at: float
    was_returned: bool = False

    def receipts(self) -> list[str]:
        """Return every receipt that it can have."""
        return [self.token + suffix for suffix in _SUFFIXES[: self.limit]]


class Claims:
    """What a worker knows of its claims on one queue. Survives reconnecting.

    A claim whose reply never came is *in doubt*: the server may have run it, and may even run it later, from the buffer
    of a connection that is gone. So what it may have taken is given back at once, and again when the server would
    refuse it.
    """

    def __init__(self) -> None:
        self.in_doubt: dict[str, Claim] = {}
        self._name = secrets.token_hex(6)
        self._offset = 0
        self._last = 0

    def learn_time(self, server_now: int) -> None:
        """Take note of the server's clock, in µs since the epoch, as it was just told."""
        self._offset = server_now - time.monotonic_ns() // 1000

    def server_time(self) -> int:
        """Return what the server's clock shows at least, in µs since the epoch."""
        return time.monotonic_ns() // 1000 + self._offset

    def new_token(self) -> str:
        """Return a name that no other claim or send has, of any worker: 13 digits of time, 12 of this worker."""
        self._last = max(self.server_time(), self._last + 1)
        return f"{self._last:013x}{self._name}"

    def begin(self, limit: int, patience: float) -> Claim:
        """Return a claim of up to `limit` messages to which the caller listens for `patience` seconds."""
        token = self.new_token()
        return Claim(token, limit, self._last + int(patience * 1e6), time.monotonic() + patience)

    def doubt(self, claim: Claim) -> None:
        """Remember that the reply of `claim` was lost."""
        self.in_doubt[claim.token] = claim

    def to_return(self) -> list[Claim]:
        """Return the claims in doubt that are to be given back at this moment."""
        now = time.monotonic()
        return [claim for claim in self.in_doubt.values() if not claim.was_returned or claim.over_at <= now]

    def returned(self, claim: Claim) -> None:
        """Take note that `claim` was given back; forget it if the server would refuse it by now."""
        claim.was_returned = True
        if claim.over_at <= time.monotonic():
            self.in_doubt.pop(claim.token, None)

    @staticmethod
    def deliveries(claim: Claim, reply: Sequence[Any]) -> list[Delivery]:
        """Return the deliveries in the claim script's reply."""
        token, redelivered = claim.token, max(0, reply[2])
        start = _HEADER + 2 * redelivered
        deliveries = [
            _redelivery(token + suffix, mark, body)
            for suffix, mark, body in zip(
                _SUFFIXES, reply[_HEADER:start:2], reply[_HEADER + 1 : start : 2], strict=False
            )
        ]
        deliveries += [
            Delivery(body=body, receipt=(receipt := token + suffix), message_id=receipt)
            for suffix, body in zip(_SUFFIXES[redelivered:], reply[start:], strict=False)
        ]
        return deliveries


def _redelivery(receipt: str, mark: bytes, body: bytes) -> Delivery:
    message_id, attempts, crashes, sent = mark.decode().split(" ")
    return Delivery(
        body=body,
        receipt=receipt,
        message_id=message_id,
        attempt=int(attempts),
        crashes=int(crashes),
        enqueued_at=None if sent == "0" else int(sent) / 1e6,
    )
