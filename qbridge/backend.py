"""Backend: what an entry point in the group `qbridge.backends` names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import (
    CoreSchema,
    ErrorDetails,
    InitErrorDetails,
    PydanticCustomError,
    PydanticKnownError,
    core_schema,
)

from qbridge.source import Capabilities, QueueSource

__all__ = ["Backend", "BackendOptions"]


def _tell_no_input(given: Any, validate: Callable[[Any], Any]) -> Any:
    """Validate; raise the same error as `validate`, without the inputs that its `errors()` and contexts would tell."""
    details: list[InitErrorDetails] = []
    try:
        return validate(given)
    except ValidationError as exc:
        title = exc.title
        for each in exc.errors(include_url=False, include_input=False):
            context = dict(each.get("ctx", {}))
            if "error" in context:  # has a traceback, which holds what was given
                context["error"] = ValueError(str(context["error"]))
            details.append(InitErrorDetails(type=_kind_of(each, context), loc=each["loc"], input=None, ctx=context))
    raise ValidationError.from_exception_data(title, details, hide_input=True)


def _kind_of(error: ErrorDetails, context: dict[str, Any]) -> Any:
    """Return what makes an error of the same kind and text: its name, where pydantic's core has that itself."""
    try:
        PydanticKnownError(error["type"], context)  # type: ignore[arg-type]  # any text may be tried
    except KeyError:
        return PydanticCustomError(error["type"], "{message}", {**context, "message": error["msg"]})
    return error["type"]


class BackendOptions(BaseModel):
    """Base of each backend's options: what stands under a queue in the YAML beside the core's own keys.

    Unknown keys are errors, and inputs, which may be secret, are kept out of pydantic's errors. Use `SecretStr` for
    what must never be printed. The core's own keys (`backend`, `codec`, `loops`, `max_message_size` and the like) can't
    be option names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Wrap all other validation, so that no error of it tells what was given."""
        return core_schema.no_info_wrap_validator_function(_tell_no_input, handler(source))


OptionsT = TypeVar("OptionsT", bound=BackendOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend(Generic[OptionsT]):
    """A package that provides a source: its name, its options, and how to make one.

    Attributes:
        name: What `backend:` says in the YAML; the same as the entry point's name.
        summary: One line for `qbridge backends` and the reference.
        options: The pydantic model of its options.
        capabilities: What it can do at best; a source found to do less says so after `open`.
        create: Makes an unopened source from the queue's name and its validated options. Does no I/O and must not
            import the client library: an import that fails belongs in `open`, as `SourceMisconfigured`.
        needs: What must be importable for `open` to work: module name → what to install,
            such as `{"redis": 'pip install "qbridge[redis]"'}`.
        example: Options that a user would write first, for the reference.
    """

    name: str
    summary: str
    options: type[OptionsT]
    capabilities: Capabilities
    create: Callable[[str, OptionsT], QueueSource]
    needs: dict[str, str]
    example: dict[str, Any]
