"""Whatever bytes a queue holds, the envelope's codec answers with a message or with one of its own errors."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from qbridge import Delivery, TaskMessage, UndecodableMessageError, UnsignedMessageError
from qbridge.codec import Codec, JsonCodec
from qbridge.signing import Signer
from tests.support.fuzzing import JSON_TEXTS, MESSAGES, NAMES, fuzz, tampered

SIGNER = Signer("orders", {"first": b"k" * 32}, sign_with="first", max_age=1e9)
LENIENT = Signer("orders", {"first": b"k" * 32}, sign_with="first", accept_unsigned=True)
CODECS = (JsonCodec(), JsonCodec(SIGNER), JsonCodec(LENIENT))

LONGEST_ERROR = 4096

KEYS = st.sampled_from(["v", "id", "task", "args", "kwargs", "headers", "enqueued_at", "sig"])
GOOD = st.sampled_from(
    ['"v":1', '"task":"greet"', '"args":[]', '"kwargs":{}', '"headers":{"a":"b"}', '"enqueued_at":1']
)
PAIRS = GOOD | st.tuples(KEYS, JSON_TEXTS).map(lambda pair: f'"{pair[0]}":{pair[1]}')
ENVELOPES = st.lists(PAIRS, max_size=8).map(lambda pairs: f"{{{','.join(pairs)}}}".encode("utf-8", "surrogatepass"))


def read_or_refused(body: bytes, codec: Codec) -> TaskMessage | None:
    """Return what is read; None if it is refused, in words that are text of a bounded length."""
    try:
        return codec.decode(Delivery(body=body, receipt=1, message_id="b1", enqueued_at=5.0))
    except (UndecodableMessageError, UnsignedMessageError) as exc:
        text = str(exc).encode()
    assert 0 < len(text) <= LONGEST_ERROR
    return None


def read_by_all(body: bytes) -> None:
    """Have a body read by every codec; what is read can be written, and reads the same then."""
    for codec in CODECS:
        message = read_or_refused(body, codec)
        if message is not None:
            again = read_or_refused(codec.encode(message), codec)
            assert message == again


@given(st.binary(max_size=300))
@fuzz(120)
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """No bytes make the codec fail in another way."""
    read_by_all(body)


@given(ENVELOPES)
@example(b'{"v":1,"task":"a","args":[' + b"9" * 4300 + b"]}")
@example(b'{"v":1,"task":"a","args":[' + b"[" * 190 + b"]" * 190 + b"]}")
@example(b'{"v":1,"task":"a","enqueued_at":' + b"9" * 4300 + b"}")
@fuzz(150)
def test_anything_in_the_place_of_a_value_is_read_or_refused(body: bytes) -> None:
    """Envelopes whose keys hold whatever JSON has, and what it doesn't have."""
    read_by_all(body)


@given(tampered(MESSAGES.map(JsonCodec().encode)))
@fuzz(150)
def test_a_tampered_envelope_is_read_or_refused(body: bytes) -> None:
    """Good envelopes in which something was changed."""
    read_by_all(body)


@given(MESSAGES)
@fuzz(120)
def test_what_is_written_reads_the_same_signed_or_not(message: TaskMessage) -> None:
    """Every codec reads what it has written, and the lenient one what all others have."""
    for codec in (CODECS[0], CODECS[2]):
        assert message == read_or_refused(codec.encode(message), codec)
    assert message == read_or_refused(CODECS[0].encode(message), CODECS[2])
    assert message == read_or_refused(CODECS[2].encode(message), CODECS[0])


@given(st.lists(st.text(max_size=5) | st.binary(max_size=5) | st.floats() | st.tuples(NAMES) | st.sets(st.integers())))
@fuzz(80)
def test_what_can_t_be_written_is_refused(args: list[object]) -> None:
    """Whatever a program passes as an argument is written so that it can be read, or refused to the program."""
    try:
        body = JsonCodec().encode(TaskMessage(task="a", args=args))
    except UndecodableMessageError:
        return
    assert read_or_refused(body, JsonCodec()) is not None


@given(st.lists(PAIRS.filter(lambda pair: not pair.startswith('"v"')), max_size=8))
@example(['"task":"a"', '"args":[1e999]', '"kwargs":{}', '"headers":{}', '"enqueued_at":1'])
@example(['"task":"a"', '"args":[]', '"kwargs":{"b":[NaN]}', '"headers":{}', '"enqueued_at":1'])
@example(['"task":"a"', '"args":[1]', '"args":[2]', '"kwargs":{}', '"headers":{}', '"enqueued_at":null'])
@example(['"task":"a"', '"args":[]', '"kwargs":{}', '"headers":{}', '"enqueued_at":"1"', '"id":7'])
@example(['"task":"a"', '"args":[]', '"kwargs":{}', '"headers":{}', '"enqueued_at":1', '"sig":"x"'])
@fuzz(300)
def test_an_envelope_reads_the_same_wherever_its_version_stands(pairs: list[str]) -> None:
    """One that begins as the codec's own is read in one step, any other key by key; nobody can tell."""
    first, last = (
        f"{{{','.join(keys)}}}".encode("utf-8", "surrogatepass")
        for keys in (['"v":1', '"id":"m1"', *pairs], ['"id":"m1"', *pairs, '"v":1'])
    )
    for codec in (CODECS[0], CODECS[2]):
        assert read_or_refused(last, codec) == read_or_refused(first, codec)
