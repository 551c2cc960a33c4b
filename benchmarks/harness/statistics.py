"""Arithmetic on what was measured: medians with their spread, percentiles, ratios. No clock, no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Summary", "percentile", "ratio", "summary"]


@dataclass(frozen=True)
class Summary:
    """One figure over several rounds.

    Args:
        median: The median.
        least: The smallest value.
        most: The largest value.
        rounds: How many values there are.
    """

    median: float
    least: float
    most: float
    rounds: int


def summary(values: Sequence[float]) -> Summary:
    """Return the median of some values with their spread.

    Raises:
        ValueError: There is none.
    """
    if not values:
        raise ValueError("a summary needs at least one value")
    return Summary(median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least so many percent of the values don't exceed ("nearest rank").

    Raises:
        ValueError: There is no value, or percent is not in (0, 100].
    """
    if not values or not 0 < percent <= 100:
        raise ValueError(f"no percentile {percent} of {len(values)} values")
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def ratio(own: float, other: float, *, more_is_better: bool) -> float:
    """Return how many times better `own` is than `other`; infinite if `other` is as bad as can be.

    Args:
        own: What is compared.
        other: With what.
        more_is_better: Whether the larger figure is the better one.
    """
    better, worse = (own, other) if more_is_better else (other, own)
    return better / worse if worse else math.inf
