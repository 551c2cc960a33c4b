"""The whole configuration as one pydantic model: strict, frozen, and the same words as in the YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from qbridge.codec import Codec
from qbridge.config.document import MOST_PROBLEMS
from qbridge.config.process_models import (
    LoggingConfig,
    LoopConfig,
    ProbesConfig,
    RecycleConfig,
    RetryBudgetConfig,
    ShutdownConfig,
    SigningConfig,
)
from qbridge.config.queue_models import QueueConfig
from qbridge.config.settings import Name, Settings
from qbridge.errors import nearest_name_hint
from qbridge.retry import RetryPolicy
from qbridge.units import format_duration

__all__ = ["Config", "unknown_loop_groups"]

#: So many loop groups are named in an error text.
_MOST_NAMES = 50


def _checked_handler(given: str) -> str:
    module, colon, attribute = given.partition(":")
    if given.endswith(".py"):
        written = given.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"not a module but a file: write {written!r}")
    names = module.split(".") + (attribute.split(".") if colon else [])
    if not all(name.isidentifier() for name in names):
        raise ValueError("not a module like shop.tasks, or module:registry")
    return given


class Config(Settings):
    """The whole configuration of a worker service.

    Attributes:
        handlers: Modules that register handlers, like shop.tasks, or module:registry.
        queues: Queues by name; at least one.
        processes: Worker processes, 1 to 256: as many as there are cores to be used.
        loops: Loop groups by name.
        retry: When a failed message is tried again, unless its handler says otherwise.
        max_crashes: Workers that a message may kill before it becomes a dead letter, 2 to 100.
        retry_budget: How many failed attempts slow the claims.
        fail_fast: Whether a worker ends, with exit code 3, if a broker can't be reached when it starts; else it waits.
        recycle: When a process drains and is followed by a fresh one.
        signing: Keys that messages are signed with; none signs nothing.
        probes: Where a worker tells over HTTP how it is; none tells nothing.
        shutdown: How a worker ends.
        logging: What a worker writes about itself.
    """

    handlers: list[Annotated[str, AfterValidator(_checked_handler)]]
    queues: Annotated[dict[Name, QueueConfig], Field(min_length=1)]
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    loops: Annotated[dict[Name, LoopConfig], Field(min_length=1)] = Field(
        default_factory=lambda: {"default": LoopConfig()}
    )
    retry: RetryPolicy = RetryPolicy()
    max_crashes: Annotated[int, Field(ge=2, le=100)] = 3
    retry_budget: RetryBudgetConfig = RetryBudgetConfig()
    fail_fast: bool = False
    recycle: RecycleConfig = RecycleConfig()
    signing: SigningConfig | None = None
    probes: ProbesConfig | None = None
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

    @property
    def has_several_processes(self) -> bool:
        """Whether the service is more than one process in its life."""
        return self.processes > 1 or self.recycle.is_active

    def create_codec(self, queue: str) -> Codec:
        """Return the codec of a queue, which signs and verifies its messages if `signing` says so."""
        signer = None if self.signing is None else self.signing.create_signer(queue)
        return self.queues[queue].codec.create_codec(signer)

    def why_too_long(self, queue: str, delay: float) -> str:
        """Return why a message of a queue can't be delayed so long, as a clause; "" if it can.

        A worker that could only dead-letter the message when its time has come is no use to its sender.
        """
        limit = None if self.signing is None else self.signing.max_age
        if limit is None or delay < limit or self.queues[queue].codec.type != "json":
            return ""
        return f"its signature holds for {format_duration(limit)} only (signing.max_age)"


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


def _errors_at(errors: Iterable[tuple[tuple[str | int, ...], PydanticCustomError, object]]) -> ValidationError:
    """Return one error of several, each at a location below the value that a validator was given."""
    details = [InitErrorDetails(type=kind, loc=location, input=given) for location, kind, given in errors]
    return ValidationError.from_exception_data("Config", details, hide_input=True)
