"""No signed message can be changed, and no bytes pass for signed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbridge import TaskMessage, UnsignedMessageError
from qbridge.codec import JsonCodec
from qbridge.signing import Signer
from tests.support.fuzzing import MESSAGES, NAMES, fuzz, tampered

SIGNER = Signer("orders", {"first": b"k" * 32, "second": b"s" * 32}, sign_with="first")


def is_verified(body: bytes) -> bool:
    """Return whether a body has a signature that holds."""
    try:
        return SIGNER.verify(body) is not None
    except UnsignedMessageError:
        return False


@given(MESSAGES, st.data())
@fuzz(120)
def test_no_byte_of_a_signed_message_can_be_changed(message: TaskMessage, data: st.DataObject) -> None:
    """Any other byte at any place is refused."""
    body = JsonCodec(SIGNER).encode(message)
    place = data.draw(st.integers(0, len(body) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != body[place]))

    assert is_verified(body)
    assert not is_verified(body[:place] + bytes([byte]) + body[place + 1 :])


@given(st.tuples(st.just(JsonCodec(SIGNER).encode(TaskMessage(id="m1", task="greet", enqueued_at=1.0))), st.data()))
@fuzz(120)
def test_a_tampered_message_is_signed_only_if_it_is_the_same(given_: tuple[bytes, st.DataObject]) -> None:
    """Several changes at once are no better than one."""
    body, data = given_
    other = data.draw(tampered(st.just(body)))

    assert (other == body) == is_verified(other)


@given(st.binary(max_size=100), NAMES, st.from_regex(rb"\A[0-9a-fA-F]{60,68}\Z"))
@fuzz(80)
def test_a_guessed_signature_doesn_t_hold(start: bytes, name: str, mac: bytes) -> None:
    """Anything that has the shape of a signature is refused, and nothing else happens."""
    for key in (name, "first"):
        assert not is_verified(b'%b,"sig":"%b:%b"}' % (start, key.encode(), mac))


@given(MESSAGES, NAMES)
@fuzz(80)
def test_a_signature_holds_for_one_queue(message: TaskMessage, queue: str) -> None:
    """Whatever two queues are called: only the same one verifies."""
    body = JsonCodec(SIGNER).encode(message)
    other = Signer(queue, {"first": b"k" * 32}, sign_with="first")

    if queue == "orders":
        assert other.verify(body)
    else:
        with pytest.raises(UnsignedMessageError):
            other.verify(body)
