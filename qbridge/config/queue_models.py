"""The settings of a queue: the core's own keys, its codec, and the options of its backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PrivateAttr,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qbridge.backend import Backend, BackendOptions
from qbridge.codec import Codec, JsonCodec, RawCodec
from qbridge.config.settings import Name, Settings
from qbridge.discovery import CORE_QUEUE_KEYS, find_backend, why_not_found
from qbridge.errors import BackendNotFoundError
from qbridge.signing import Signer
from qbridge.source import QueueSource
from qbridge.units import Duration, Size

__all__ = ["CodecConfig", "JsonCodecConfig", "QueueConfig", "RawCodecConfig"]

#: The largest message that a queue may be set to take: bytes.
_LARGEST_MESSAGE = 64 * 2**20


class JsonCodecConfig(Settings):
    """Messages are the JSON envelope, which `qbridge send` and `QBridge.send` write.

    Attributes:
        type: The codec's name.
    """

    type: Literal["json"] = "json"

    def create_codec(self, signer: Signer | None = None) -> Codec:
        """Return the codec that this setting names; it verifies signatures if it gets a signer."""
        return JsonCodec(signer)


class RawCodecConfig(Settings):
    """Messages are written by anybody: the whole body is the first argument of one task.

    Attributes:
        type: The codec's name.
        task: Name of the task that every message of the queue is for.
    """

    type: Literal["raw"]
    task: Name

    def create_codec(self, signer: Signer | None = None) -> Codec:
        """Return the codec that this setting names; a raw body has no place for a signature."""
        return RawCodec(self.task)


CodecConfig = Annotated[JsonCodecConfig | RawCodecConfig, Field(discriminator="type")]


class QueueConfig(Settings):
    """One queue: the core's own keys, and beside them the options of its backend.

    In YAML and in mappings the options stand flat beside the other keys: `{backend: sqlite, path: ./qbridge.db}`. A
    program may also pass a ready object as `options`. Backends are looked for among the validation context's
    `backends`, or, without one, among those installed.

    Attributes:
        backend: Name of the backend that provides the queue.
        codec: How the bytes of its messages become tasks.
        loops: Name of the loop group that runs its tasks.
        max_message_size: Bytes of the largest message taken, at most 64MiB; larger ones become dead letters.
        read_ahead: Messages claimed before there is room to run them, 0 to 10000.
        stalled_after: Seconds in which nothing arrives, though messages are ready and there is room to run them, after
            which the connection is made anew; at least 1, none never does.
        options: The backend's own options, an object of the backend's options model.
    """

    backend: str
    codec: CodecConfig = JsonCodecConfig()
    loops: Name = "default"
    max_message_size: Annotated[Size, Field(ge=1, le=_LARGEST_MESSAGE)] = 2**20
    read_ahead: Annotated[int, Field(ge=0, le=10_000)] = 0
    stalled_after: Annotated[Duration, Field(ge=1)] | None = 60.0
    options: SerializeAsAny[BackendOptions]

    _provider: Backend[Any] = PrivateAttr()

    @property
    def provider(self) -> Backend[Any]:
        """The backend that `backend` names."""
        return self._provider

    def create_source(self, name: str) -> QueueSource:
        """Return an unopened source for this queue; `name` is the queue's name. Does no I/O."""
        return self._provider.create(name, self.options)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        own = {key: value for key, value in given.items() if key in CORE_QUEUE_KEYS}
        options: Any = {key: value for key, value in given.items() if key not in CORE_QUEUE_KEYS}
        if len(options) == 1 and isinstance(options.get("options"), BackendOptions):
            options = options["options"]
        return {**own, "options": options}

    @field_validator("backend")
    @classmethod
    def _known_backend(cls, name: str, info: ValidationInfo) -> str:
        backends = _backends_in(info)
        try:
            return find_backend(name, backends).name
        except BackendNotFoundError:
            raise PydanticCustomError("backend_not_found", "{why}", {"why": why_not_found(name, backends)}) from None

    @field_validator("options", mode="before")
    @classmethod
    def _valid_options(cls, given: Any, info: ValidationInfo) -> Any:
        if "backend" not in info.data:
            return BackendOptions()  # the backend's own problem is told; nothing can be said of its options
        model = find_backend(info.data["backend"], _backends_in(info)).options
        if isinstance(given, BackendOptions):
            return model.model_validate(given)
        try:
            text = json.dumps(given)
        except (TypeError, ValueError):
            return model.model_validate(given)  # a program's own objects, which no YAML holds
        # From JSON, strict still takes texts for paths, enums and dates, and takes neither "5" nor true for 5.
        return model.model_validate_json(text, strict=True)

    @model_validator(mode="after")
    def _remember_backend(self, info: ValidationInfo) -> QueueConfig:
        self._provider = find_backend(self.backend, _backends_in(info))
        return self

    @model_serializer(mode="wrap")
    def _flat(self, serialize: SerializerFunctionWrapHandler, _info: SerializationInfo) -> dict[str, Any]:
        keys: dict[str, Any] = serialize(self)
        options = keys.pop("options", {})
        return {**keys, **options}


def _backends_in(info: ValidationInfo) -> Mapping[str, Backend[Any]] | None:
    backends: Mapping[str, Backend[Any]] | None = (info.context or {}).get("backends")
    return backends
