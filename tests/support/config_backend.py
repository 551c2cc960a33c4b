"""A backend with an option of every kind, and the error of a bad configuration that names it.

Tests of the configuration so depend on no real backend.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from qbridge import Backend, BackendOptions, Capabilities, ConfigError, Duration, Size
from qbridge.config import parse_config

__all__ = ["BACKENDS", "StoreOptions", "error_of", "text_of"]


class Durability(StrEnum):
    """How hard the store tries to keep what it has."""

    FULL = "full"
    RELAXED = "relaxed"


class TlsOptions(BaseModel):
    """How a connection is encrypted.

    Attributes:
        certificate: File of the certificate.
        verify: Whether the server's certificate is checked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: Path
    verify: bool = True


class StoreOptions(BackendOptions):
    """Options of a store.

    Attributes:
        url: Where the store is, like store://host.
        password: With what to log in.
        token: The same for those who have no password.
        key: Name of the list.
        path: Where copies are written,
            if anywhere.
        lease: Seconds after which another worker takes a delivery.
        pause: Seconds between two tries.
        chunk: Bytes written at once.
        retries: Further tries of a command.
        ratio: Share of the store that may be used.
        durability: How hard it tries.
        streams: Number of streams, or auto.
        tags: Names to put on it.
        tls: How the connection is encrypted.
        first: Where to begin.
        last: Where to end.
    """

    url: SecretStr
    password: SecretStr | None = None
    token: str = ""
    key: str = "tasks"
    path: Path | None = None
    lease: Annotated[Duration, Field(ge=1, le=3600)] = 30.0
    pause: Annotated[Duration, Field(ge=0.1)] = 1.0
    chunk: Annotated[Size, Field(ge=1, le=2**30)] = 2**16
    retries: Annotated[int, Field(ge=0, multiple_of=2)] = 0
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    durability: Durability = Durability.FULL
    streams: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    region: Annotated[str, Field(pattern=r"^[a-z]+-[0-9]$", max_length=8)] = "here-1"
    tags: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list, max_length=3)
    tls: TlsOptions | None = None
    first: int = 0
    last: int = 9

    @field_validator("url")
    @classmethod
    def _is_store_url(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith("store://"):
            raise ValueError(f"{url.get_secret_value()} is no URL like store://host")
        return url

    @model_validator(mode="after")
    def _in_order(self) -> StoreOptions:
        if self.first > self.last:
            password = self.password.get_secret_value() if self.password else ""
            raise ValueError(f"first ({self.first}) is after last ({self.last}), for {password} at {self.token}")
        return self


def _never_opened(name: str, options: StoreOptions) -> NoReturn:
    raise AssertionError(f"reading a configuration must not make the source of {name!r}: {options}")


#: What `parse_config(..., backends=BACKENDS)` finds.
BACKENDS = {
    "store": Backend(
        name="store",
        summary="a store of tests",
        options=StoreOptions,
        capabilities=Capabilities(
            durable=True,
            shared=True,
            ordered=True,
            delay=True,
            lease="timeout",
            attempts=True,
            headers=True,
            dead_letters=True,
        ),
        create=_never_opened,
        needs={},
        example={"url": "store://host"},
    )
}


def text_of(text: str) -> str:
    """Return what a table shows indented in triple quotes, as the text that it stands for."""
    return textwrap.dedent(text).removeprefix("\n")


def error_of(
    yaml: str | bytes, env: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
) -> str:
    """Return the whole text of the error that a configuration raises."""
    with pytest.raises(ConfigError) as raised:
        parse_config(yaml, env=env or {}, overrides=overrides, backends=BACKENDS)
    return str(raised.value)
