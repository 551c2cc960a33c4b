"""RabbitAddress: where a broker is, taken from a URL."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["RabbitAddress", "parse_url"]

_PORTS = {"amqp": 5672, "amqps": 5671}
_QUOTING = "write a password or virtual host that has @, :, /, ? or # percent-encoded, or give it by its own option"


@dataclass(frozen=True, slots=True)
class RabbitAddress:
    """Where a broker is and how to log in.

    Attributes:
        host: Its host.
        port: Its port.
        vhost: The virtual host.
        username: Whom to log in as; None is `guest`.
        password: With what; None is `guest`. Kept out of the representation.
        tls: Whether the connection is encrypted.
    """

    host: str = "localhost"
    port: int = 5672
    vhost: str = "/"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False

    def __str__(self) -> str:
        """The URL without whatever could be secret, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        vhost = "" if self.vhost == "/" else f"/{self.vhost}"
        return f"{'amqps' if self.tls else 'amqp'}://{host}:{self.port}{vhost}"


def parse_url(url: str) -> RabbitAddress:
    """Return what a URL says. A path that is missing or `/` means the virtual host `/`.

    Raises:
        ValueError: If it can't be an AMQP URL. The text repeats nothing of it, as any part may hold a password that
            wasn't percent-encoded.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _PORTS:
        raise ValueError("the url must begin with amqp:// or amqps://")
    parts, port = _split(url)
    if parts.query or parts.fragment:
        raise ValueError(f"the url has a ? or a # in it: options have names of their own here ({_QUOTING})")
    if port == 0:
        raise ValueError("the url's port is 0, not a number from 1 to 65535")
    path = parts.path.removeprefix("/")
    if "/" in path:
        raise ValueError(f"the url names a virtual host with a / in it: write that / as %2F ({_QUOTING})")
    return RabbitAddress(
        host=unquote(parts.hostname or "localhost"),
        port=port or _PORTS[scheme],
        vhost=unquote(path) or "/",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=scheme == "amqps",
    )


def _split(url: str) -> tuple[SplitResult, int | None]:
    with suppress(ValueError):  # not an error's context either: its text repeats a part of the url
        parts = urlsplit(url)
        return parts, parts.port
    raise ValueError(f"the url's port is not a number from 1 to 65535, or its host is malformed ({_QUOTING})")
