"""What the event loop asks of the thread that owns the connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbridge import Action, Delivery, Outgoing, Settlement

if TYPE_CHECKING:
    from qbridge_sqlite.database import Database

__all__ = ["Call", "Claim", "Claimed", "KeepAlive", "Request", "Send", "Settle"]


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One request: made on the event loop, performed in the thread, answered on the event loop.

    Attributes:
        future: Where the answer goes; None if nobody waits for it.
    """

    future: asyncio.Future[Any] | None = None

    @property
    def writes(self) -> bool:
        """Whether it changes the file, and so needs the write lock."""
        return True

    @property
    def weight(self) -> int:
        """How many messages it is about."""
        return 1

    @property
    def rings(self) -> bool:
        """Whether workers that wait should look again once it is done."""
        return False


@dataclass(slots=True, eq=False, kw_only=True)
class Send(Request):
    """Add messages. Answered with None."""

    messages: Sequence[Outgoing]

    @property
    def weight(self) -> int:
        """Those that are added."""
        return len(self.messages)

    @property
    def rings(self) -> bool:
        """There is something to claim, or a time to wait for."""
        return True


@dataclass(slots=True, eq=False, kw_only=True)
class Settle(Request):
    """End deliveries. Answered with a list of `Settled`."""

    settlements: Sequence[Settlement]

    @property
    def weight(self) -> int:
        """Those that are settled."""
        return len(self.settlements)

    @property
    def rings(self) -> bool:
        """Messages come back, unless they are only acknowledged."""
        return any(settlement.action in _COMES_BACK for settlement in self.settlements)


@dataclass(slots=True, eq=False, kw_only=True)
class KeepAlive(Request):
    """Renew leases. Answered with the list of deliveries that are lost."""

    deliveries: Sequence[Delivery]


@dataclass(slots=True, eq=False, kw_only=True)
class Claim(Request):
    """Take up to `limit` messages. Answered with a `Claimed`.

    Attributes:
        limit: At least 1.
        waits: Whether its caller waits for a wake-up if there is nothing.
    """

    limit: int
    waits: bool


@dataclass(slots=True, eq=False, kw_only=True)
class Call(Request):
    """Anything else: `function` is called in the thread, within a transaction. Answered with what it returns."""

    function: Callable[[Database], Any]
    is_writing: bool = False
    is_ringing: bool = False

    @property
    def writes(self) -> bool:
        """As it was made."""
        return self.is_writing

    @property
    def rings(self) -> bool:
        """As it was made."""
        return self.is_ringing


@dataclass(slots=True)
class Claimed:
    """What a claim found.

    Attributes:
        deliveries: What was taken, in order.
        pause: Where nothing was taken, seconds until there may be something; infinite if only a wake-up can tell.
        listener: Where nothing was taken, the socket on which wake-ups come; None if the caller doesn't wait, or
            there can't be one.
    """

    deliveries: list[Delivery]
    pause: float = 0.0
    listener: socket.socket | None = None


_COMES_BACK = frozenset({Action.RETRY, Action.RELEASE})
