"""The settings as pydantic models: strict, frozen, and the same words as in the YAML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializationInfo,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from qbridge.backend import Backend, BackendOptions
from qbridge.codec import Codec, JsonCodec, RawCodec
from qbridge.config.document import MOST_PROBLEMS
from qbridge.discovery import CORE_QUEUE_KEYS, find_backend, why_not_found
from qbridge.errors import BackendNotFoundError, nearest_name_hint
from qbridge.message import NAME_PATTERN
from qbridge.retry import RetryPolicy
from qbridge.source import QueueSource
from qbridge.units import Duration, Size

__all__ = [
    "CodecConfig",
    "Config",
    "JsonCodecConfig",
    "LoggingConfig",
    "LoopConfig",
    "QueueConfig",
    "RawCodecConfig",
    "ShutdownConfig",
    "unknown_loop_groups",
]

#: The largest message that a queue may be set to take: bytes.
_LARGEST_MESSAGE = 64 * 2**20

#: Nobody waits longer than a day for a worker to end: seconds.
_LONGEST_GRACE = 86_400.0

#: So many loop groups are named in an error text.
_MOST_NAMES = 50

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


def _checked_handler(given: str) -> str:
    module, colon, attribute = given.partition(":")
    if given.endswith(".py"):
        written = given.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"not a module but a file: write {written!r}")
    names = module.split(".") + (attribute.split(".") if colon else [])
    if not all(name.isidentifier() for name in names):
        raise ValueError("not a module like shop.tasks, or module:registry")
    return given


def _checked_processes(given: int) -> int:
    if given != 1:
        raise ValueError("a worker is one process: leave this out, and start 'qbridge run' several times")
    return given


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, types are not bent, values stay out of error texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class JsonCodecConfig(Settings):
    """Messages are the JSON envelope, which `qbridge send` and `QBridge.send` write.

    Attributes:
        type: The codec's name.
    """

    type: Literal["json"] = "json"

    def create_codec(self) -> Codec:
        """Return the codec that this setting names."""
        return JsonCodec()


class RawCodecConfig(Settings):
    """Messages are written by anybody: the whole body is the first argument of one task.

    Attributes:
        type: The codec's name.
        task: Name of the task that every message of the queue is for.
    """

    type: Literal["raw"]
    task: Name

    def create_codec(self) -> Codec:
        """Return the codec that this setting names."""
        return RawCodec(self.task)


CodecConfig = Annotated[JsonCodecConfig | RawCodecConfig, Field(discriminator="type")]


class LoopConfig(Settings):
    """One loop group: loop threads of one name and one concurrency.

    Attributes:
        threads: Loop threads, 1 to 64. More isolate handlers that block; they don't raise throughput.
        concurrency: Handlers that run at once on each loop thread, 1 to 100000.
        implementation: The event loop; auto takes uvloop where it is installed.
        worker_threads: Threads for plain functions, of each loop thread, 1 to 1000.
    """

    threads: Annotated[int, Field(ge=1, le=64)] = 1
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 500
    implementation: Literal["auto", "asyncio", "uvloop"] = "auto"
    worker_threads: Annotated[int, Field(ge=1, le=1000)] = 32


class ShutdownConfig(Settings):
    """How a worker ends: what runs may finish, then it is cancelled, then all that is finished is settled.

    Attributes:
        grace: Seconds in which running handlers may finish after the first signal, at most a day.
        cancel_grace: Seconds in which cancelled handlers may clean up, at most a day.
        flush: Seconds in which finished work is settled, at most a day.
    """

    grace: Annotated[Duration, Field(le=_LONGEST_GRACE)] = 25.0
    cancel_grace: Annotated[Duration, Field(le=_LONGEST_GRACE)] = 3.0
    flush: Annotated[Duration, Field(le=_LONGEST_GRACE)] = 5.0


class LoggingConfig(Settings):
    """What a worker writes about itself.

    Attributes:
        level: The least important lines that are written.
        format: For people (console) or for programs (json).
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


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
        options: The backend's own options, an object of the backend's options model.
    """

    backend: str
    codec: CodecConfig = JsonCodecConfig()
    loops: Name = "default"
    max_message_size: Annotated[Size, Field(ge=1, le=_LARGEST_MESSAGE)] = 2**20
    read_ahead: Annotated[int, Field(ge=0, le=10_000)] = 0
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


class Config(Settings):
    """The whole configuration of a worker service.

    Attributes:
        handlers: Modules that register handlers, like shop.tasks, or module:registry.
        queues: Queues by name; at least one.
        processes: Worker processes; one.
        loops: Loop groups by name.
        retry: When a failed message is tried again, unless its handler says otherwise.
        max_crashes: Workers that a message may kill before it becomes a dead letter, 2 to 100.
        shutdown: How a worker ends.
        logging: What a worker writes about itself.
    """

    handlers: list[Annotated[str, AfterValidator(_checked_handler)]]
    queues: Annotated[dict[Name, QueueConfig], Field(min_length=1)]
    processes: Annotated[
        int, AfterValidator(_checked_processes), Field(json_schema_extra={"minimum": 1, "maximum": 1})
    ] = 1
    loops: Annotated[dict[Name, LoopConfig], Field(min_length=1)] = Field(
        default_factory=lambda: {"default": LoopConfig()}
    )
    retry: RetryPolicy = RetryPolicy()
    max_crashes: Annotated[int, Field(ge=2, le=100)] = 3
    shutdown: ShutdownConfig = ShutdownConfig()
    logging: LoggingConfig = LoggingConfig()

    @field_validator("handlers")
    @classmethod
    def _each_handler_once(cls, handlers: list[str]) -> list[str]:
        first = {name: index for index, name in reversed(list(enumerate(handlers)))}
        repeated = [index for index, name in enumerate(handlers) if index != first[name]]
        if repeated:
            why = PydanticCustomError("repeated", "which is named before")
            raise _errors_at(((index,), why, handlers[index]) for index in repeated[:MOST_PROBLEMS])
        return handlers

    @model_validator(mode="after")
    def _known_loop_groups(self) -> Config:
        problems = unknown_loop_groups({name: queue.loops for name, queue in self.queues.items()}, self.loops)
        if problems:
            raise _errors_at(
                (("queues", name, "loops"), PydanticCustomError("unknown_loops", "{why}", {"why": why}), None)
                for name, why in problems.items()
            )
        return self


def unknown_loop_groups(wanted: Mapping[str, str], known: Mapping[str, object]) -> dict[str, str]:
    """Return the queues whose loop group isn't configured, each with the reason as a clause.

    Args:
        wanted: Queue name → name of its loop group.
        known: The loop groups, by name.
    """
    unknown = islice(((queue, group) for queue, group in wanted.items() if group not in known), MOST_PROBLEMS)
    names = list(islice(known, _MOST_NAMES))
    shown = ", ".join(names) + (", ..." if len(known) > len(names) else "")
    return {
        queue: f"which is not among the loop groups (known: {shown}){nearest_name_hint(group, names)}"
        for queue, group in unknown
    }


def _backends_in(info: ValidationInfo) -> Mapping[str, Backend[Any]] | None:
    backends: Mapping[str, Backend[Any]] | None = (info.context or {}).get("backends")
    return backends


def _errors_at(errors: Iterable[tuple[tuple[str | int, ...], PydanticCustomError, object]]) -> ValidationError:
    """Return one error of several, each at a location below the value that a validator was given."""
    details = [InitErrorDetails(type=kind, loc=location, input=given) for location, kind, given in errors]
    return ValidationError.from_exception_data("Config", details, hide_input=True)
