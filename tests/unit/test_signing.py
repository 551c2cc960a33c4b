"""Signatures: which messages are let through, and what is said of the others."""

from __future__ import annotations

import hashlib
import hmac
import io
import logging
import traceback
from typing import Any, NoReturn

import pydantic_core
import pytest

from qbridge import (
    ConfigError,
    Delivery,
    TaskMessage,
    UndecodableMessageError,
    UnsignedMessageError,
    build_config,
    codec,
)
from qbridge.codec import Codec, JsonCodec, RawCodec
from qbridge.signing import Signer

OLD, NEW = b"o" * 32, b"n" * 40
MESSAGE = TaskMessage(id="m1", task="greet", args=["world"], kwargs={"n": 1.5}, enqueued_at=1000.0)

NO_SIGNATURE = "message has no signature"
NO_MATCH = (
    "signature with key 'old' doesn't match: it was made with another key of that name, for another queue, or for "
    "other bytes"
)


def signer(
    queue: str = "orders",
    *,
    keys: dict[str, bytes] | None = None,
    sign_with: str = "old",
    accept_unsigned: bool = False,
    max_age: float | None = None,
) -> Signer:
    """Return a signer whose clock stands at 1060 seconds."""
    return Signer(
        queue,
        {"old": OLD} if keys is None else keys,
        sign_with=sign_with,
        accept_unsigned=accept_unsigned,
        max_age=max_age,
        now=lambda: 1060.0,
    )


def read(body: bytes, reader: Signer, *, enqueued_at: float | None = None) -> TaskMessage:
    """Return what a worker with that signer reads."""
    delivery = Delivery(body=body, receipt=1, message_id="b1", enqueued_at=enqueued_at)
    return JsonCodec(reader).decode(delivery)


def refusal(body: bytes, reader: Signer, *, enqueued_at: float | None = None) -> str:
    """Return why a worker with that signer refuses a body."""
    with pytest.raises(UnsignedMessageError) as raised:
        read(body, reader, enqueued_at=enqueued_at)
    return str(raised.value)


def test_the_signature_is_the_documented_one() -> None:
    """It is the last key, and the HMAC-SHA256 of three lines: other languages can make it."""
    envelope = JsonCodec().encode(MESSAGE)
    mac = hmac.new(OLD, b"qbridge-v1\norders\n" + envelope, hashlib.sha256).hexdigest()

    body = JsonCodec(signer()).encode(MESSAGE)

    assert envelope[:-1] + b',"sig":"old:' + mac.encode() + b'"}' == body


def test_what_is_signed_is_read() -> None:
    """A signed message comes out as it went in."""
    assert MESSAGE == read(JsonCodec(signer()).encode(MESSAGE), signer())


def test_a_change_of_any_byte_is_refused() -> None:
    """No byte of a signed message, its signature included, may be another, missing or doubled."""
    body, reader = JsonCodec(signer()).encode(MESSAGE), signer()

    for place in range(len(body)):
        before, byte, after = body[:place], body[place], body[place + 1 :]
        for other in (byte ^ 1, byte ^ 32, byte ^ 128, 0, 34, 125):
            if other != byte:
                assert refusal(before + bytes([other]) + after, reader)
        assert refusal(before + after, reader)
        assert refusal(before + bytes([byte, byte]) + after, reader)


def test_bytes_around_a_signed_message_are_refused() -> None:
    """Not even white space may stand before or after it."""
    body = JsonCodec(signer()).encode(MESSAGE)

    assert [NO_SIGNATURE, NO_MATCH] == [refusal(body + b"\n", signer()), refusal(b" " + body, signer())]


def test_a_message_without_signature_is_refused() -> None:
    """The text says so."""
    assert NO_SIGNATURE == refusal(JsonCodec().encode(MESSAGE), signer())


def test_a_signature_for_another_queue_is_refused() -> None:
    """A message can't be carried to another queue, whose handlers it was not meant for."""
    assert NO_MATCH == refusal(JsonCodec(signer("parked")).encode(MESSAGE), signer("orders"))


def test_a_signature_with_another_key_of_the_same_name_is_refused() -> None:
    """It is the key that counts, not its name."""
    assert NO_MATCH == refusal(JsonCodec(signer(keys={"old": NEW})).encode(MESSAGE), signer())


def test_a_signature_with_an_unknown_key_is_refused() -> None:
    """The text names the key, so that somebody who forgot to add it can see that."""
    body = JsonCodec(signer(keys={"new": NEW}, sign_with="new")).encode(MESSAGE)

    assert "message is signed with key 'new', which is not in signing.keys" == refusal(body, signer())


def test_the_signature_of_one_key_under_the_name_of_another_is_refused() -> None:
    """Both keys are good, but the name is not the one that was signed with."""
    both = signer(keys={"old": OLD, "new": NEW})
    body = JsonCodec(both).encode(MESSAGE).replace(b'"old:', b'"new:')

    assert refusal(body, both).startswith("signature with key 'new' doesn't match")


def test_keys_are_exchanged_without_a_gap() -> None:
    """While both keys are known, messages of either are read, and written with the one that is named."""
    before, both, after = signer(), signer(keys={"old": OLD, "new": NEW}), signer(keys={"new": NEW}, sign_with="new")
    switched = signer(keys={"old": OLD, "new": NEW}, sign_with="new")

    assert MESSAGE == read(JsonCodec(before).encode(MESSAGE), switched)
    assert MESSAGE == read(JsonCodec(both).encode(MESSAGE), before)
    assert MESSAGE == read(JsonCodec(switched).encode(MESSAGE), both)
    assert MESSAGE == read(JsonCodec(switched).encode(MESSAGE), after)


def test_unsigned_messages_are_let_through_if_asked_for() -> None:
    """While signing is introduced, what has no signature is read."""
    assert MESSAGE == read(JsonCodec().encode(MESSAGE), signer(accept_unsigned=True))


@pytest.mark.parametrize(
    "body",
    [
        JsonCodec(signer("parked")).encode(MESSAGE),
        JsonCodec(signer(keys={"new": NEW}, sign_with="new")).encode(MESSAGE),
        JsonCodec(signer()).encode(MESSAGE).replace(b"world", b"moon!"),
        JsonCodec(signer()).encode(MESSAGE) + b" ",
        JsonCodec(signer()).encode(MESSAGE).replace(b',"sig":', b', "sig":'),
        JsonCodec(signer()).encode(MESSAGE).replace(b'"sig"', b'"\\u0073ig"'),
        b'{"sig":"old:%b","v":1,"task":"greet"}' % (b"0" * 64),
        b'{"v":1,"task":"greet","sig":5}',
    ],
    ids=["queue", "key", "bytes", "end", "space", "escape", "first", "number"],
)
def test_a_wrong_signature_is_refused_even_then(body: bytes) -> None:
    """Whoever signs means it: a signature that doesn't hold, or stands elsewhere, is never taken for none."""
    assert refusal(body, signer(accept_unsigned=True))


def test_a_message_signed_twice_is_refused() -> None:
    """What a signature covers has none of its own."""
    twice = signer().sign(JsonCodec(signer()).encode(MESSAGE))

    assert "message has a signature, but not at its end, where it would be looked at" == refusal(twice, signer())


def test_a_worker_without_keys_passes_a_signature_over() -> None:
    """So a service may begin to sign before all others have keys."""
    body = JsonCodec(signer()).encode(MESSAGE)

    assert MESSAGE == JsonCodec().decode(Delivery(body=body, receipt=1, message_id="b1"))


@pytest.mark.parametrize(("max_age", "is_read"), [(None, True), (60.0, True), (59.9, False)])
def test_a_signature_holds_for_its_time(max_age: float | None, is_read: bool) -> None:
    """A message that was sent 60 seconds ago is read with a max_age of 60, and refused with a smaller one."""
    body, reader = JsonCodec(signer()).encode(MESSAGE), signer(max_age=max_age)

    if is_read:
        assert MESSAGE == read(body, reader)
    else:
        assert "signed message is 60 s old, over signing.max_age: 59.9s" == refusal(body, reader)


def test_the_age_is_that_of_the_signed_bytes() -> None:
    """A message that doesn't say when it was sent has no age; what the broker says is not signed."""
    body = signer().sign(b'{"v":1,"task":"greet"}')

    assert "signed message has no enqueued_at, which signing.max_age needs" == refusal(
        body, signer(max_age=60), enqueued_at=1059.0
    )
    assert 1059.0 == read(body, signer(), enqueued_at=1059.0).enqueued_at


def test_a_sender_is_told_that_its_message_would_have_no_age() -> None:
    """Not the worker, which could only refuse it."""
    with pytest.raises(UndecodableMessageError, match="has no enqueued_at, without which nobody can tell"):
        JsonCodec(signer(max_age=60)).encode(TaskMessage(task="greet", enqueued_at=None))


def test_nothing_is_parsed_before_it_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser doesn't see a byte of what has no signature that holds."""

    def parse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("parsed")

    monkeypatch.setattr(pydantic_core, "from_json", parse)
    monkeypatch.setattr(codec, "_read_message", parse)
    own = JsonCodec(signer()).encode(MESSAGE)

    for signed in (own, signer().sign(b'{"task":"greet","v":1}')):
        with pytest.raises(AssertionError, match="parsed"):
            read(signed, signer())
    assert NO_SIGNATURE == refusal(b'{"v":1}', signer())
    assert NO_MATCH == refusal(JsonCodec(signer("parked")).encode(MESSAGE), signer())


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hmac.compare_digest` has the say, which takes as long for a wrong first byte as for a wrong last one."""
    body, asked = JsonCodec(signer()).encode(MESSAGE), []

    def compare(first: bytes, second: bytes) -> bool:
        asked.append((first, second))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)

    assert NO_MATCH == refusal(body, signer())
    assert [(bytes.fromhex(body[-66:-2].decode()),) * 2] == asked


def test_keys_are_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither what is printed of a signer nor a traceback with all its locals has a key or the right signature."""
    caplog.set_level(logging.DEBUG)
    reader, shown = signer(keys={"old": OLD, "new": NEW}), io.StringIO()
    wrong = JsonCodec(signer("parked")).encode(MESSAGE)
    no_bytes: Any = ["no bytes"]

    for attempt in (lambda: read(wrong, reader), lambda: reader.sign(no_bytes)):
        with pytest.raises((UnsignedMessageError, TypeError)) as raised:
            attempt()
        traceback.TracebackException.from_exception(raised.value, capture_locals=True).print(file=shown)
    shown.write(f"{reader!r} {reader.__slots__} {JsonCodec(reader)!r}")
    right = JsonCodec(reader).encode(MESSAGE)[-66:-2].decode()

    assert "in mac" in shown.getvalue()
    for secret in (OLD.decode(), NEW.decode(), right):
        assert secret not in shown.getvalue() + caplog.text


def test_the_keys_of_a_configuration_are_never_shown() -> None:
    """Neither what is printed of it nor what is dumped of it."""
    config = build_config(
        {"handlers": [], "queues": {"a": {"backend": "memory"}}, "signing": {"keys": {"first": OLD.decode()}}}
    )

    shown = [repr(config), str(config), repr(config.model_dump()), config.model_dump_json(), repr(config.signing)]
    shown.append(repr(config.create_codec("a")))

    assert [] == [text for text in shown if OLD.decode() in text]


def test_a_key_under_two_names_is_refused() -> None:
    """Who replaces a key by itself has replaced nothing."""
    keys = {"first": OLD.decode(), "second": OLD.decode()}

    with pytest.raises(ConfigError) as raised:
        build_config(
            {"handlers": [], "queues": {"a": {"backend": "memory"}}, "signing": {"keys": keys, "sign_with": "first"}}
        )

    assert "signing: two of the keys are the same: make another one with 'openssl rand -hex 32'" == str(raised.value)


def test_a_configuration_signs_its_json_queues() -> None:
    """Each queue has a signer of its own; raw bodies have no place for a signature."""
    config = build_config(
        {
            "handlers": [],
            "queues": {
                "a": {"backend": "memory"},
                "b": {"backend": "memory"},
                "c": {"backend": "memory", "codec": {"type": "raw", "task": "greet"}},
            },
            "signing": {"keys": {"old": OLD.decode(), "new": NEW.decode()}, "sign_with": "new"},
        }
    )
    codecs: dict[str, Codec] = {queue: config.create_codec(queue) for queue in config.queues}

    body = codecs["a"].encode(MESSAGE)

    assert JsonCodec(signer("a", keys={"new": NEW}, sign_with="new")).encode(MESSAGE) == body
    assert MESSAGE == codecs["a"].decode(Delivery(body=body, receipt=1, message_id="b1"))
    with pytest.raises(UnsignedMessageError):
        codecs["b"].decode(Delivery(body=body, receipt=1, message_id="b1"))
    assert isinstance(codecs["c"], RawCodec)
    assert b"5" == codecs["c"].encode(TaskMessage(task="greet", args=[5]))


def test_a_message_is_signed_anew_for_another_queue() -> None:
    """Only what has a signature that holds is: nobody gets his message signed by having it moved."""
    here = signer("orders", keys={"old": OLD, "new": NEW}, sign_with="new", accept_unsigned=True, max_age=1)
    there = signer("parked", keys={"new": NEW}, sign_with="new")
    body, bare = JsonCodec(signer("orders")).encode(MESSAGE), JsonCodec().encode(MESSAGE)
    foreign = JsonCodec(signer("numbers")).encode(MESSAGE)

    assert MESSAGE == read(here.resign(body, there), there)
    assert [bare, foreign, b"", b"\xff"] == [here.resign(each, there) for each in (bare, foreign, b"", b"\xff")]
