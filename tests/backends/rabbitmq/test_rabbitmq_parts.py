"""The parts that need no broker: which acknowledgements to send, which delay queue to use, what papers say."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbridge import MAX_ERROR_LENGTH, MAX_ERRORS_KEPT, Outgoing, SourceMisconfigured
from qbridge_rabbitmq.delays import LADDER, step_of
from qbridge_rabbitmq.papers import ATTEMPTS, CRASHES, ERRORS, copy, errors_of, fresh, read, user_headers
from qbridge_rabbitmq.tags import acknowledgements


@pytest.mark.parametrize(
    ("unsettled", "finished", "expected"),
    [
        ([1, 2, 3], {1, 2, 3}, [(3, True)]),
        ([1, 2, 3], {1}, [(1, False)]),
        ([1, 2, 3], {2, 3}, [(2, False), (3, False)]),
        ([1, 2, 4, 7], {1, 2, 7}, [(2, True), (7, False)]),
        ([4, 7], {4, 7}, [(7, True)]),
        ([1], set(), []),
    ],
)
def test_the_front_is_acknowledged_in_one(
    unsettled: list[int], finished: set[int], expected: list[tuple[int, bool]]
) -> None:
    """What stands at the front goes with `multiple`, over gaps of what is settled already; the rest goes alone."""
    assert expected == list(acknowledgements(unsettled, finished))


@given(st.sets(st.integers(1, 60)), st.data())
def test_acknowledgements_cover_just_what_is_finished(tags: set[int], data: st.DataObject) -> None:
    """Whatever has ended in whatever order, the acknowledgements settle that and nothing else, each once."""
    unsettled = sorted(tags)
    finished = data.draw(st.sets(st.sampled_from(unsettled))) if unsettled else set()
    left = list(unsettled)

    for tag, is_multiple in acknowledgements(unsettled, finished):
        assert tag in left, "a tag that the broker doesn't know closes the channel"
        left = [other for other in left if (other > tag if is_multiple else other != tag)]

    assert sorted(tags - finished) == left


@given(st.floats(0.001, LADDER[-1] / 1000))
def test_a_step_is_never_short_and_not_much_longer(delay: float) -> None:
    """A delay is rounded up to a step of the ladder: at most half as long again, from 100 ms on."""
    step = step_of(delay)

    assert delay * 1000 <= step
    assert step <= max(100, delay * 1500 + 1)


@pytest.mark.parametrize("delay", [0.1, 0.5, 1, 5, 10, 30, 60, 300, 3600, 86400])
def test_round_delays_are_exact(delay: float) -> None:
    """What people write has a step of just that length."""
    assert delay * 1000 == step_of(delay)


def properties(**headers: Any) -> Any:
    """Return the properties of a delivery that has these headers."""
    return pika.BasicProperties(message_id="id", headers=headers, expiration="5", user_id="guest", type="kind")


def test_attempts_are_the_copy_s_and_the_broker_s() -> None:
    """What a copy says of earlier attempts and crashes, and what the broker has counted since, add up."""
    papers = read(properties(**{ATTEMPTS: 3, CRASHES: 1, "x-delivery-count": 2}), b"")

    assert (5, 3) == (papers.attempts, papers.crashes)


@pytest.mark.parametrize("value", ["3", None, -1, 1.5, [1], b"1"])
def test_a_damaged_count_is_none(value: Any) -> None:
    """A foreign program that writes into our headers confuses nobody: what is no count is 0."""
    assert 0 == read(properties(**{ATTEMPTS: value}), b"").attempts


def test_a_message_without_an_id_gets_one_that_stays() -> None:
    """Two deliveries of a message that was published without an id have one name, and another body another."""
    nameless = pika.BasicProperties()

    names = [read(nameless, body).message_id for body in (b"a", b"a", b"b")]

    assert names[0] == names[1] != names[2]


def test_a_copy_carries_what_the_sender_gave_and_nothing_of_the_broker() -> None:
    """Headers and properties stay; an expiration, a user id, routes and the broker's own headers don't travel on."""
    original = properties(
        trace="00-ab", number=1.5, nested={"a": [1.25]}, CC=["other"], **{"x-death": [], "x-delivery-count": 3}
    )

    copied = copy(original, "id", attempts=1)
    copied.encode()

    assert {"trace": "00-ab", "number": "1.5", "nested": {"a": ["1.25"]}, ATTEMPTS: 1} == copied.headers
    assert ("kind", None, None, 2) == (copied.type, copied.expiration, copied.user_id, copied.delivery_mode)


def test_the_error_history_fits_into_a_frame() -> None:
    """The newest errors are kept and stay below the size of a frame, however long and wide they are."""
    copied = properties()
    for number in range(MAX_ERRORS_KEPT + 3):
        copied = copy(copied, "id", error=f"{number} " + "世" * MAX_ERROR_LENGTH)

    size = len(b"".join(copied.encode()))

    assert size < 64 * 1024
    assert errors_of(copied)[-1].startswith(f"{MAX_ERRORS_KEPT + 2} ")
    assert ERRORS in copied.headers


def test_headers_that_are_not_text_are_told_as_json() -> None:
    """A foreign program's numbers, tables and bytes reach the handler as text."""
    told = user_headers(properties(a="x", b=1, c=True, d=None, e={"k": [1]}, f=b"\xff", **{"x-death": [1]}))

    assert {"a": "x", "b": "1", "c": "true", "d": "null", "e": '{"k": [1]}', "f": "\\xff"} == told


@pytest.mark.parametrize("name", [ATTEMPTS, "x-death", "CC", "", "n" * 256])
def test_headers_that_mean_something_else_here_are_refused(name: str) -> None:
    """A sender can't write what the backend or the broker would read."""
    with pytest.raises(SourceMisconfigured, match="keeps for itself"):
        fresh(Outgoing(body=b"", message_id="id", headers={name: "x"}), 0.0)
