"""When a failed message is tried again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qbridge import RetryPolicy

POLICIES = st.builds(
    lambda backoff, base, factor, jitter: RetryPolicy(backoff=backoff, base=base, cap=base * factor, jitter=jitter),
    st.sampled_from(["exponential", "linear", "constant"]),
    st.floats(min_value=0, max_value=1e6),
    st.floats(min_value=1, max_value=1e3),
    st.booleans(),
)


def delays(policy: RetryPolicy, count: int = 6) -> list[float]:
    return [policy.delay_after(attempt) for attempt in range(1, count + 1)]


def test_an_exponential_pause_doubles_up_to_the_cap() -> None:
    """base, twice base, four times base … and never more than cap."""
    policy = RetryPolicy(backoff="exponential", base=1, cap=10, jitter=False)

    assert [1, 2, 4, 8, 10, 10] == delays(policy)


def test_a_linear_pause_grows_by_base_up_to_the_cap() -> None:
    """base, twice base, three times base … and never more than cap."""
    policy = RetryPolicy(backoff="linear", base=2, cap=9, jitter=False)

    assert [2, 4, 6, 8, 9, 9] == delays(policy)


def test_a_constant_pause_stays() -> None:
    """Always base."""
    policy = RetryPolicy(backoff="constant", base=3, cap=300, jitter=False)

    assert [3, 3, 3, 3, 3, 3] == delays(policy)


def test_by_default_five_attempts_are_spread_over_seconds() -> None:
    """What the documentation promises: 1 s, doubled each time, up to 5 minutes, five attempts."""
    policy = RetryPolicy()

    assert (5, "exponential", 1.0, 300.0, True) == (
        policy.max_attempts,
        policy.backoff,
        policy.base,
        policy.cap,
        policy.jitter,
    )


def test_the_last_attempt_allows_no_other() -> None:
    """max_attempts counts the first start of the handler, too."""
    policy = RetryPolicy(max_attempts=3)

    assert [True, True, False, False] == [policy.allows_another(attempt) for attempt in (1, 2, 3, 4)]


def test_one_attempt_is_never_tried_again() -> None:
    """max_attempts: 1 switches retries off."""
    assert not RetryPolicy(max_attempts=1).allows_another(1)


def test_jitter_is_drawn_from_the_given_generator() -> None:
    """The same generator gives the same pauses, another gives others."""
    policy = RetryPolicy()

    first = [policy.delay_after(3, random.Random(seed)) for seed in (1, 1, 2)]

    assert first[0] == first[1]
    assert first[0] != first[2]


def test_jitter_spreads_over_the_upper_half() -> None:
    """Half of the pause is fixed, the other half is random from nothing to all of it."""

    class Fixed(random.Random):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def random(self) -> float:
            return self.value

    policy = RetryPolicy(backoff="constant", base=10, cap=10)

    assert [5.0, 7.5, 10.0] == [policy.delay_after(1, Fixed(value)) for value in (0.0, 0.5, 1.0)]


@given(POLICIES, st.integers(min_value=1, max_value=10**9), st.integers())
def test_no_pause_leaves_its_bounds(policy: RetryPolicy, attempt: int, seed: int) -> None:
    """Whatever the policy, and however late the attempt: between half of what is due and the cap."""
    due = RetryPolicy(backoff=policy.backoff, base=policy.base, cap=policy.cap, jitter=False).delay_after(attempt)

    delay = policy.delay_after(attempt, random.Random(seed))

    assert due / 2 <= delay <= due <= policy.cap


@given(POLICIES, st.integers(min_value=1, max_value=2000))
def test_pauses_never_shrink(policy: RetryPolicy, attempt: int) -> None:
    """Without jitter a later attempt waits at least as long as the one before."""
    steady = RetryPolicy(backoff=policy.backoff, base=policy.base, cap=policy.cap, jitter=False)

    assert steady.delay_after(attempt) <= steady.delay_after(attempt + 1)


def test_a_base_over_the_cap_is_refused() -> None:
    """The two contradict each other; neither is bent in silence."""
    with pytest.raises(ValidationError, match=r"base \(600s\) is over cap \(300s\): raise cap or lower base"):
        RetryPolicy(base=600)


@pytest.mark.parametrize(
    "keys", [{"max_attempts": 0}, {"max_attempts": 1001}, {"backoff": "cubic"}, {"base": -1}, {"tries": 3}]
)
def test_a_policy_that_makes_no_sense_is_refused(keys: dict[str, object]) -> None:
    """Bounds, choices and names are checked."""
    with pytest.raises(ValidationError):
        RetryPolicy.model_validate(keys)


def test_durations_may_be_texts() -> None:
    """As in the YAML: base: 500ms."""
    policy = RetryPolicy.model_validate({"base": "500ms", "cap": "5m"})

    assert (0.5, 300.0) == (policy.base, policy.cap)
