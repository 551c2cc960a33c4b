"""RedisOptions: what stands under a queue in the YAML, checked before anything connects."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from qbridge import BackendOptions, Duration
from qbridge_redis.keys import check_key

__all__ = ["RedisAddress", "RedisOptions", "parse_url"]

_DEFAULT_URL = "redis://localhost:6379/0"
_DEFAULT_PORT = 6379
_QUOTING = "write a password that has @, :, /, ? or # percent-encoded, or give it as `password`"

#: What may stand after the ? of a URL, by the names that redis-py gives them.
_TLS_OPTIONS = (
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
)
_CERTIFICATE_CHECKS = ("none", "optional", "required")


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a server is and how to log in, taken from a URL.

    Attributes:
        host: Its host; "" for a Unix socket.
        port: Its port; 0 for a Unix socket.
        path: The Unix socket's path, else "".
        database: The number of the database.
        username: Whom to log in as, or None.
        password: With what, or None. Kept out of the representation.
        tls: Whether the connection is encrypted.
        tls_options: `ssl_...` options of the URL, checked.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    tls_options: dict[str, str | bool] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """The URL without whatever could be secret, for messages."""
        if self.path:
            return f"unix://{self.path}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"


class RedisOptions(BackendOptions):
    """Options of a Redis queue.

    Attributes:
        url: Where the server is: `redis://[[user]:password@]host[:port][/database]`, `rediss://…` for TLS (with
            `?ssl_ca_certs=…` and the like), or `unix:///path/to/socket[?db=0]`.
        username: Whom to log in as, where the URL doesn't say.
        password: With what, where the URL doesn't say; needs no percent-encoding.
        key: The Redis list that is the queue. Producers LPUSH onto it. Default: the queue's name. All other keys of
            the queue begin with it and share its hash slot.
        lease: Seconds after which a worker that gives no sign of life loses its messages to another one.
        connect_timeout: Seconds within which a connection must be ready.
        command_timeout: Seconds within which the server must answer a command.
        unsafe_eviction: Use a server that may evict the queue's keys when its memory is full, and lose messages so.
    """

    url: SecretStr = Field(default=SecretStr(_DEFAULT_URL), json_schema_extra={"default": _DEFAULT_URL})
    username: Annotated[str, Field(min_length=1)] | None = None
    password: SecretStr | None = None
    key: str | None = None
    lease: Annotated[Duration, Field(ge=0.1, le=7 * 86400)] = 30.0
    connect_timeout: Annotated[Duration, Field(ge=0.05, le=300)] = 5.0
    command_timeout: Annotated[Duration, Field(ge=0.05, le=300)] = 5.0
    unsafe_eviction: bool = False

    @field_validator("url")
    @classmethod
    def _url_is_valid(cls, url: SecretStr) -> SecretStr:
        parse_url(url.get_secret_value())
        return url

    @field_validator("key")
    @classmethod
    def _key_is_valid(cls, key: str | None) -> str | None:
        return key if key is None else check_key(key)

    @model_validator(mode="after")
    def _one_password(self) -> RedisOptions:
        address = parse_url(self.url.get_secret_value())
        if self.password is not None and address.password is not None:
            raise ValueError("a password stands both in the url and in `password`: leave one of them out")
        if self.username is not None and address.username is not None:
            raise ValueError("a user name stands both in the url and in `username`: leave one of them out")
        return self

    def address(self) -> RedisAddress:
        """Return where the server is, with the user name and the password from wherever they were given."""
        address = parse_url(self.url.get_secret_value())
        return RedisAddress(
            host=address.host,
            port=address.port,
            path=address.path,
            database=address.database,
            username=self.username if self.username is not None else address.username,
            password=self.password.get_secret_value() if self.password is not None else address.password,
            tls=address.tls,
            tls_options=address.tls_options,
        )


def parse_url(url: str) -> RedisAddress:
    """Return what a URL says.

    Raises:
        ValueError: If it can't be a Redis URL. The text repeats nothing of it, as any part may hold a password that
            wasn't percent-encoded.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix"):
        raise ValueError("the url must begin with redis://, rediss:// or unix://")
    parts, port = _split(url)
    if parts.fragment:
        raise ValueError(f"the url has a # in it ({_QUOTING})")
    if port == 0:
        raise ValueError("the url's port is 0, not a number from 1 to 65535")
    query = _query(parts)
    if scheme == "unix":
        path = unquote(parts.path)
        if path in ("", "/") or parts.hostname:
            raise ValueError("a unix url needs the absolute path of a socket, like unix:///run/redis/redis.sock")
        host, port, database = "", 0, _database(query.pop("db", "0"))
    else:
        path, host, port = "", unquote(parts.hostname or "localhost"), port or _DEFAULT_PORT
        given = parts.path.strip("/")
        if given and "db" in query:
            raise ValueError("the url names a database twice: after the host and as ?db=")
        database = _database(query.pop("db", given or "0"))
    return RedisAddress(
        host=host,
        port=port,
        path=path,
        database=database,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=scheme == "rediss",
        tls_options=_tls_options(query, scheme),
    )


def _split(url: str) -> tuple[SplitResult, int | None]:
    with suppress(ValueError):  # not an error's context either: its text repeats a part of the url
        parts = urlsplit(url)
        return parts, parts.port
    raise ValueError(f"the url's port is not a number from 1 to 65535, or its host is malformed ({_QUOTING})")


def _query(parts: SplitResult) -> dict[str, str]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    known = ("db", *_TLS_OPTIONS)
    if any(name not in known for name, _ in pairs):
        raise ValueError(f"the url has an unknown option after its ? (known: {', '.join(known)}; {_QUOTING})")
    return dict(pairs)


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(f"the url's database is not a number, 0 or more ({_QUOTING})")
    return int(text)


def _tls_options(query: dict[str, str], scheme: str) -> dict[str, str | bool]:
    if scheme != "rediss":
        if query:
            raise ValueError("the url has ssl_ options, which only a rediss:// url takes")
        return {}
    certificate_check = query.get("ssl_cert_reqs", "required")
    if certificate_check not in _CERTIFICATE_CHECKS:
        raise ValueError(f"the url's ssl_cert_reqs is none of {', '.join(_CERTIFICATE_CHECKS)}")
    name_check = query.get("ssl_check_hostname", "false" if certificate_check == "none" else "true")
    if name_check not in ("true", "false"):
        raise ValueError("the url's ssl_check_hostname is neither true nor false")
    if name_check == "true" and certificate_check == "none":
        raise ValueError("the url has ssl_check_hostname=true but ssl_cert_reqs=none, which checks no name")
    return {**query, "ssl_check_hostname": name_check == "true"}
