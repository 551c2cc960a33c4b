"""Which acknowledgements to send: as few as the order of the tags allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["acknowledgements"]


def acknowledgements(unsettled: Iterable[int], finished: set[int]) -> Iterator[tuple[int, bool]]:
    """Yield the acknowledgements for `finished`, each as a tag and whether it covers all tags before it too.

    What stands at the front of the unsettled ones goes in one; behind the first that goes on, each goes alone.

    Args:
        unsettled: All tags that are not settled, ascending.
        finished: Those of them to acknowledge; not changed.
    """
    last = 0
    count = 0
    for tag in unsettled:
        if tag not in finished:
            break
        last = tag
        count += 1
    if count:
        yield last, count > 1
    if count < len(finished):
        yield from ((tag, False) for tag in sorted(finished) if tag > last)
