"""What the benchmark makes of measured figures: medians with their spread, percentiles, ratios."""

from __future__ import annotations

import math

import pytest

from benchmarks.harness.statistics import Summary, percentile, ratio, summary


def test_a_summary_is_the_median_with_its_spread() -> None:
    """One slow round moves the least value, not the median."""
    assert Summary(median=30.0, least=1.0, most=31.0, rounds=3) == summary([31.0, 1.0, 30.0])


def test_a_summary_of_an_even_number_lies_between_the_middle_ones() -> None:
    """With two rounds the median is their mean."""
    assert 2.5 == summary([2.0, 3.0]).median


def test_a_summary_of_nothing_is_refused() -> None:
    """A figure of no round can't be shown as one of some."""
    with pytest.raises(ValueError, match="at least one value"):
        summary([])


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50), (99, 99), (100, 100), (0.5, 1)], ids=["p50", "p99", "all", "the least"]
)
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: int) -> None:
    """Of a hundred values the n-th percentile is the n-th smallest, in whatever order they come."""
    values = list(range(100, 0, -1))

    assert expected == percentile(values, percent)


def test_the_99th_percentile_of_few_values_is_the_worst() -> None:
    """With fewer than a hundred values nothing that was slow is left out."""
    assert 7.0 == percentile([1.0, 7.0, 2.0], 99)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_a_percentile_that_is_none_is_refused(values: list[float], percent: float) -> None:
    """Without values, or outside of 0 to 100, there is no percentile."""
    with pytest.raises(ValueError, match="no percentile"):
        percentile(values, percent)


@pytest.mark.parametrize(
    ("own", "other", "more_is_better", "expected"),
    [(400.0, 100.0, True, 4.0), (50.0, 100.0, True, 0.5), (1.0, 2.5, False, 2.5), (2.0, 1.0, False, 0.5)],
)
def test_a_ratio_over_one_is_better(own: float, other: float, more_is_better: bool, expected: float) -> None:
    """Whether more or less is better, a ratio over 1 speaks for what is compared."""
    assert expected == ratio(own, other, more_is_better=more_is_better)


def test_a_ratio_to_nothing_is_infinite() -> None:
    """A peer that did nothing in a second doesn't end the report with an error."""
    assert math.inf == ratio(10.0, 0.0, more_is_better=True)
