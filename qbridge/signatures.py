"""What a handler's signature says: which arguments a message must bring, and what pydantic makes of them."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import PydanticUserError, TypeAdapter
from pydantic_core import ArgsKwargs

from qbridge.codec import RawPayload, read_json
from qbridge.errors import RegistryError

__all__ = [
    "POSITIONAL",
    "ArgumentValidator",
    "Scope",
    "argument_validator",
    "called",
    "from_raw",
    "is_coroutine_function",
    "positional_index",
    "raw_conversion",
    "resolved_signature",
]

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

#: The global and the local names where a handler is registered.
Scope = tuple[Mapping[str, Any], Mapping[str, Any]]

#: Takes a message's arguments, returns what the handler is called with.
ArgumentValidator = Callable[[ArgsKwargs], tuple[tuple[Any, ...], dict[str, Any]]]


def called(function: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return what a partial wraps, and its type's __call__, which is what runs where it is a callable object."""
    inner = function.func if isinstance(function, functools.partial) else function
    return inner, type(inner).__call__


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Return whether calling a function gives a coroutine, through a partial or a callable object too."""
    return any(map(inspect.iscoroutinefunction, called(function)))


def resolved_signature(name: str, function: Callable[..., Any], scope: Scope) -> inspect.Signature:
    """Return a handler's signature with its annotations as types, those written as text too.

    Raises:
        RegistryError: It can't be read, or an annotation names what isn't there.
    """
    try:
        signature = inspect.signature(function)
        inner, call = called(function)
        target = inner if inspect.isroutine(inner) else call
        # A handler from another module has its own types, which may have the names of others here.
        is_from_here = getattr(inspect.unwrap(target), "__globals__", None) is scope[0]
        hints = typing.get_type_hints(target, localns=dict(scope[1]) if is_from_here else None, include_extras=True)
    except (TypeError, ValueError, NameError, AttributeError) as exc:
        raise RegistryError(
            f"the signature of handler {name!r} can't be read: {exc} (types that annotations name must be "
            "importable at run time, not only under TYPE_CHECKING)"
        ) from exc
    return signature.replace(
        parameters=[
            parameter.replace(annotation=hints.get(key, parameter.annotation))
            for key, parameter in signature.parameters.items()
        ],
        return_annotation=inspect.Signature.empty,
    )


def positional_index(signature: inspect.Signature, name: str) -> int:
    """Return at which positional place a parameter stands, or -1 if it is keyword-only or isn't there."""
    names = [key for key, parameter in signature.parameters.items() if parameter.kind in POSITIONAL]
    return names.index(name) if name in names else -1


def argument_validator(name: str, parameters: list[inspect.Parameter]) -> ArgumentValidator:
    """Return a function that takes a message's arguments and returns what pydantic made of them.

    It is a function of the handler's own signature, less the context, that does nothing but hand its arguments back:
    so the handler's own errors can't be taken for errors in its arguments. Pydantic's validator is called itself, as
    the two functions that `validate_call` puts around it take an eighth of the time (November 2026, CPython 3.11).

    Raises:
        RegistryError: Pydantic can't validate such a signature.
    """

    def hand_back(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    hand_back.__name__ = hand_back.__qualname__ = name
    hand_back.__annotations__ = {
        parameter.name: parameter.annotation
        for parameter in parameters
        if parameter.annotation is not inspect.Parameter.empty
    }
    hand_back.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # honoured by inspect
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", hand_back))
        return adapter.validator.validate_python
    except (PydanticUserError, TypeError) as exc:
        raise RegistryError(f"pydantic can't validate the signature of handler {name!r}: {exc}") from exc


def raw_conversion(parameters: list[inspect.Parameter]) -> Literal["bytes", "text", "json"]:
    """Return what a raw payload becomes for the first parameter, by its annotation."""
    annotation: Any = parameters[0].annotation if parameters else None
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if annotation is bytes:
        return "bytes"
    return "text" if annotation is str else "json"


def from_raw(payload: RawPayload, wanted: Literal["bytes", "text", "json"]) -> Any:
    """Return a raw payload as what `raw_conversion` says, or as the nearest to it that its bytes can be."""
    if wanted == "bytes":
        return bytes(payload)
    try:
        value = read_json(payload)
    except ValueError:
        value = None
    else:
        if wanted == "json" or isinstance(value, str):
            return value
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return bytes(payload)
