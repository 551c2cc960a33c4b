"""Signatures, by which a worker knows that a message was written by somebody who has a key.

A signature is the last key of the JSON envelope, so that it can be cut off before anything is read:

    {"v":1,"task":"greet","args":["world"],"sig":"<name of the key>:<64 hexadecimal digits>"}

The digits are the HMAC-SHA256, with that key, of three lines: the words `qbridge-v1`, the queue's name, and the bytes
of the envelope without the signature. So they hold for one queue, and for nothing but these bytes.
"""

from __future__ import annotations

import hmac
import re
import time
from binascii import unhexlify
from collections.abc import Callable, Mapping
from contextlib import suppress

from qbridge.errors import UnsignedMessageError
from qbridge.units import format_duration

__all__ = ["SIGNATURE_KEY", "Signer"]

#: The envelope's key for its signature.
SIGNATURE_KEY = "sig"

#: The first line of what is signed: no other use of a key makes a signature that holds here.
_DOMAIN = "qbridge-v1"

_OPENING = b',"sig":"'

#: Always the end of an envelope, and never longer than `_LONGEST` bytes.
_SIGNATURE = re.compile(rb',"sig":"([A-Za-z0-9_.:\-]{1,128}):([0-9a-f]{64})"\}')
_LONGEST = len(_OPENING) + 128 + 1 + 64 + 2


class Signer:
    """Signs the envelopes of one queue, and verifies them before anybody reads them. Immutable; for any thread.

    Args:
        queue: The queue's name, which its producers and its workers have to have in common.
        keys: The keys that are accepted, by name.
        sign_with: The name of the key that messages are signed with.
        accept_unsigned: Whether messages without a signature are let through. One that doesn't hold never is.
        max_age: Seconds after its sending for which a signature holds; None lets it hold for ever.
        now: The clock: seconds since the epoch.
    """

    __slots__ = ("_accept_unsigned", "_closing", "_keys", "_now", "_sign_with", "max_age")

    def __init__(
        self,
        queue: str,
        keys: Mapping[str, bytes],
        *,
        sign_with: str,
        accept_unsigned: bool = False,
        max_age: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = {name.encode(): _Key(secret, queue) for name, secret in keys.items()}
        self._sign_with = self._keys[sign_with.encode()]
        self._closing = _OPENING + sign_with.encode() + b":"
        self._accept_unsigned = accept_unsigned
        #: Seconds after its sending for which a signature holds; None lets it hold for ever.
        self.max_age = max_age
        self._now = now

    def sign(self, envelope: bytes) -> bytes:
        """Return an envelope with its signature. It must be the bytes of a JSON object that has keys."""
        return b'%b%b%b"}' % (envelope[:-1], self._closing, self._sign_with.mac(envelope).hex().encode())

    def verify(self, body: bytes) -> bytes | None:
        """Return the envelope that was signed, or None if there is no signature and there need not be one.

        Takes time in proportion to the body, whatever it holds, and reads nothing of it but its last bytes.

        Raises:
            UnsignedMessageError: There is no signature, or not one that holds.
        """
        start = body.rfind(_OPENING, -_LONGEST)
        found = _SIGNATURE.fullmatch(body, start) if start >= 0 else None
        if found is None:
            if self._accept_unsigned:
                return None
            raise UnsignedMessageError("message has no signature")
        name, mac = found.groups()
        key = self._keys.get(name)
        if key is None:
            raise UnsignedMessageError(f"message is signed with key {name.decode()!r}, which is not in signing.keys")
        envelope = body[:start] + b"}"
        if not hmac.compare_digest(key.mac(envelope), unhexlify(mac)):
            raise UnsignedMessageError(
                f"signature with key {name.decode()!r} doesn't match: it was made with another key of that name, for "
                "another queue, or for other bytes"
            )
        return envelope

    def check_age(self, enqueued_at: float | None) -> None:
        """Refuse what was signed too long ago.

        Args:
            enqueued_at: When the message says it was sent, seconds since the epoch; None if it doesn't say.

        Raises:
            UnsignedMessageError: It is older than `max_age`, or nobody can say how old it is.
        """
        if self.max_age is None:
            return
        if enqueued_at is None:
            raise UnsignedMessageError("signed message has no enqueued_at, which signing.max_age needs")
        age = self._now() - enqueued_at
        if age > self.max_age:
            raise UnsignedMessageError(
                f"signed message is {age:.6g} s old, over signing.max_age: {format_duration(self.max_age)}"
            )

    def resign(self, body: bytes, target: Signer) -> bytes:
        """Return a message of this queue as it has to be in the target's.

        Only what has a signature that holds here gets one that holds there; everything else stays as it is, and so
        does the time at which it was sent.
        """
        with suppress(UnsignedMessageError):
            envelope = self.verify(body)
            if envelope is not None:
                return target.sign(envelope)
        return body

    def __repr__(self) -> str:
        return f"<Signer with {len(self._keys)} keys>"


class _Key:
    """A key and the queue that it signs for. No method has the secret among its locals, where a traceback shows it."""

    __slots__ = ("_secret", "_start")

    def __init__(self, secret: bytes, queue: str) -> None:
        self._secret = secret
        self._start = f"{_DOMAIN}\n{queue}\n".encode()

    def mac(self, envelope: bytes) -> bytes:
        return hmac.digest(self._secret, self._start + envelope, "sha256")

    def __repr__(self) -> str:
        return "<_Key>"
