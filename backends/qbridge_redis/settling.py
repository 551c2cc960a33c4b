"""Settling through one script: deliveries into its arguments, its reply into outcomes. Imports the client library."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qbridge import MAX_ERROR_LENGTH, Action, Settled, Settlement
from qbridge_redis.link import Link
from qbridge_redis.scripts import load_scripts

__all__ = ["MAX_BATCH", "microseconds", "release", "settle"]

#: Settlements of one call of the script.
MAX_BATCH = 500

#: Microseconds of the longest delay, 30 years: a sum with the time of day stays exact in a Lua number.
_LONGEST_DELAY = 30 * 365 * 86400 * 10**6

_CODES = {Action.ACK: "A", Action.RETRY: "R", Action.RELEASE: "B", Action.DEAD_LETTER: "D"}


def microseconds(delay: float) -> int:
    """Return a delay in seconds as whole microseconds, rounded up, at most 30 years."""
    return min(_LONGEST_DELAY, math.ceil(delay * 1e6)) if delay > 0 else 0


async def settle(link: Link, keys: Sequence[str], settlements: Sequence[Settlement]) -> list[Settled]:
    """Settle up to `MAX_BATCH` deliveries in one step on the server; return an outcome for each, in order.

    Raises:
        SourceUnavailable: The outcome is unknown.
    """
    firsts: list[str] = []
    others: list[str | bytes] = []
    for settlement in settlements:
        delivery = settlement.delivery
        # A first claim's receipt is the message's id.
        if settlement.action is Action.ACK and delivery.receipt == delivery.message_id:
            firsts.append(delivery.message_id)
        else:
            others += (
                _CODES[settlement.action],
                str(delivery.receipt),
                str(microseconds(settlement.delay)),
                _storable(settlement.reason),
                _storable(settlement.error),
            )
    lost = await link.run(load_scripts().settle, keys, [str(len(firsts)), *firsts, *others])
    outcomes = [Settled.DONE] * len(settlements)
    if lost:
        order = _script_order(settlements)
        for position in lost:
            outcomes[order[position - 1]] = Settled.LOST
    return outcomes


async def release(link: Link, keys: Sequence[str], receipts: Sequence[str]) -> None:
    """Give back, uncounted, what is still held under these receipts; the others may never have existed.

    Raises:
        SourceUnavailable: The outcome is unknown.
    """
    arguments = ["0"]
    for receipt in receipts:
        arguments += ("B", receipt, "0", "", "")
    await link.run(load_scripts().settle, keys, arguments)


def _storable(text: str) -> bytes:
    # A lone surrogate, such as a file's name may hold, has no UTF-8.
    return text[:MAX_ERROR_LENGTH].encode("utf-8", "backslashreplace")


def _script_order(settlements: Sequence[Settlement]) -> list[int]:
    firsts: list[int] = []
    others: list[int] = []
    for index, settlement in enumerate(settlements):
        is_first = settlement.action is Action.ACK and settlement.delivery.receipt == settlement.delivery.message_id
        (firsts if is_first else others).append(index)
    return firsts + others
