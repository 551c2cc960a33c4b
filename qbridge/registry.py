"""HandlerRegistry: task names to handlers, and the checks that a message must pass to reach one."""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, overload

from pydantic import ValidationError
from pydantic_core import ArgsKwargs

from qbridge.codec import RawPayload
from qbridge.errors import InvalidArgumentsError, RegistryError, UnknownTaskError
from qbridge.message import NAME_PATTERN, TaskMessage
from qbridge.retry import RetryPolicy
from qbridge.signatures import (
    POSITIONAL,
    Scope,
    argument_validator,
    called,
    from_raw,
    is_coroutine_function,
    positional_index,
    raw_conversion,
    resolved_signature,
)

__all__ = ["Handler", "HandlerRegistry", "TaskContext"]

#: The one text of pydantic's that repeats what was sent.
_TAG_GIVEN = re.compile(r"^Input tag '.*' (?=found using )", re.DOTALL)

#: Of a thousand arguments that don't fit so many are told.
_MOST_PROBLEMS = 20

_UNIONS = (typing.Union, types.UnionType)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """What a handler may know about its message. A parameter annotated with this type is filled in, never sent.

    Attributes:
        id: The message's id; the same in every attempt, so it can serve as an idempotency key.
        task: The handler's name.
        queue: The queue that the message came from.
        attempt: Which attempt this is, from 1.
        max_attempts: After which attempt a failure makes it a dead letter.
        headers: The message's headers.
        enqueued_at: When it was sent, seconds since the epoch; None if nobody said.
        loop_thread: The name of the loop thread that runs it.
    """

    id: str
    task: str
    queue: str
    attempt: int
    max_attempts: int
    headers: Mapping[str, str]
    enqueued_at: float | None
    loop_thread: str
    _send: Callable[..., Awaitable[str]] = field(repr=False)

    async def send(self, task: str, /, *args: Any, queue: str | None = None, delay: float = 0.0, **kwargs: Any) -> str:
        """Send a further task from a handler; see `QBridge.send`. A name among `kwargs` can't be `queue` or `delay`.

        Raises:
            The same errors as `QBridge.send`.
        """
        return await self._send(task, args, kwargs, queue=queue or self.queue, delay=delay)


class Handler:
    """A function under its name, with its limits. Made by `HandlerRegistry`; immutable.

    Attributes:
        name: The task name.
        function: The function, as it was written.
        is_coroutine: Whether it runs on the loop; a plain function runs in a worker thread.
        timeout: Seconds that one attempt may take; None sets no limit.
        retry: Its own policy; None takes the worker's.
        wants_context: Whether a parameter is a `TaskContext`.
        signature: What a message must fill: the function's signature without the `TaskContext`, annotations resolved.
    """

    __slots__ = (
        "_context_index",
        "_context_name",
        "_positional",
        "_raw_as",
        "_validate",
        "function",
        "is_coroutine",
        "name",
        "retry",
        "signature",
        "timeout",
        "wants_context",
    )

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        timeout: float | None,
        retry: RetryPolicy | None,
        scope: Scope,
    ) -> None:
        self.name = name
        self.function = function
        self.is_coroutine = is_coroutine_function(function)
        self.timeout = timeout
        self.retry = retry
        signature = resolved_signature(name, function, scope)
        contexts = [key for key, parameter in signature.parameters.items() if _is_context(name, parameter)]
        if len(contexts) > 1:
            raise RegistryError(f"handler {name!r} has {len(contexts)} TaskContext parameters, it may have one")
        self._context_name = contexts[0] if contexts else ""
        self.wants_context = bool(contexts)
        self._context_index = positional_index(signature, self._context_name)
        sent = [parameter for key, parameter in signature.parameters.items() if key != self._context_name]
        self.signature = signature.replace(parameters=sent)
        self._positional = tuple(parameter.name for parameter in sent if parameter.kind in POSITIONAL)
        self._raw_as = raw_conversion(sent)
        self._validate = argument_validator(name, sent)

    def bind(self, message: TaskMessage, context: TaskContext | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the validated arguments to call `function` with.

        Args:
            message: The task; its arguments are as JSON has them.
            context: What a `TaskContext` parameter gets; needed only if `wants_context`.

        Raises:
            InvalidArgumentsError: The arguments don't fit the signature.
        """
        args: list[Any] = message.args
        if args and type(args[0]) is RawPayload:
            args = [from_raw(args[0], self._raw_as), *args[1:]]
        try:
            positional, named = self._validate(ArgsKwargs(tuple(args), message.kwargs))
        except ValidationError as exc:
            raise InvalidArgumentsError(self.name, self._problems(exc)) from None
        except TypeError as exc:
            raise InvalidArgumentsError(self.name, [str(exc)]) from None
        if context is not None and self._context_name:
            if self._context_name in named:  # it stands among the names of a **kwargs
                raise InvalidArgumentsError(
                    self.name, [f"{self._context_name}: is filled in by the worker and can't be sent"]
                )
            if 0 <= self._context_index <= len(positional):
                positional = (*positional[: self._context_index], context, *positional[self._context_index :])
            else:
                named[self._context_name] = context
        return positional, named

    def _problems(self, exc: ValidationError) -> Iterator[str]:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        for error in errors[:_MOST_PROBLEMS]:
            path = list(error["loc"])
            if path and isinstance(path[0], int) and path[0] < len(self._positional):
                path[0] = self._positional[path[0]]
            text = _TAG_GIVEN.sub("Input tag ", error["msg"]) if error["type"] == "union_tag_invalid" else error["msg"]
            yield f"{'.'.join(map(str, path))[:200]}: {text}" if path else text
        if len(errors) > _MOST_PROBLEMS:
            yield f"and {len(errors) - _MOST_PROBLEMS} more problems"

    def __repr__(self) -> str:
        return f"<Handler {self.name!r} {self.function.__module__}.{getattr(self.function, '__qualname__', '?')}>"


class HandlerRegistry:
    """Task names and the handlers that run them. Fill it at import time; many may be merged with `include`.

    Example:
        >>> registry = HandlerRegistry()
        >>> @registry.task
        ... async def greet(name: str) -> None:
        ...     print(f"hello {name}")
        >>> list(registry)
        ['greet']
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    @overload
    def task(self, function: FunctionT, /) -> FunctionT: ...

    @overload
    def task(
        self, /, *, name: str | None = None, timeout: float | None = None, retry: RetryPolicy | None = None
    ) -> Callable[[FunctionT], FunctionT]: ...

    def task(
        self,
        function: FunctionT | None = None,
        /,
        *,
        name: str | None = None,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> FunctionT | Callable[[FunctionT], FunctionT]:
        """Register a function as a handler; use it as `@registry.task` or `@registry.task(…)`.

        The function itself is returned unchanged and may be called as before. Coroutine functions run on a loop
        thread; plain functions run in worker threads, never on a loop.

        Args:
            function: The function, where the decorator stands without parentheses.
            name: The task name; None takes the function's own name.
            timeout: Seconds that one attempt may take, over 0; None sets no limit. A coroutine is then cancelled and
                its attempt has failed; a thread can't be stopped, its attempt fails when it ends.
            retry: When a failed attempt is followed by another; None takes the worker's policy.

        Raises:
            RegistryError: The name is taken or no task name, or the signature can't be called with a message.
        """
        # Annotations written as text may name what is local to the caller; the frame is read now, not kept.
        caller = sys._getframe(1)
        scope = (caller.f_globals, dict(caller.f_locals))

        def register(function: FunctionT) -> FunctionT:
            self._add(function, name=name, timeout=timeout, retry=retry, scope=scope)
            return function

        return register if function is None else register(function)

    def include(self, other: HandlerRegistry) -> None:
        """Take over every handler of another registry.

        Raises:
            RegistryError: A name is taken already; nothing is taken over then.
        """
        for name, handler in other._handlers.items():
            if self._handlers.get(name, handler) is not handler:
                raise RegistryError(_taken(name, self._handlers[name], handler.function))
        self._handlers.update(other._handlers)

    def find(self, name: str) -> Handler | None:
        """Return the handler of that task name, or None."""
        return self._handlers.get(name)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """All handlers by task name, in the order of their registration; a live, read-only view."""
        return MappingProxyType(self._handlers)

    def __getitem__(self, name: str) -> Handler:
        handler = self._handlers.get(name)
        if handler is None:
            raise UnknownTaskError(name, self._handlers)
        return handler

    def __contains__(self, name: object) -> bool:
        return name in self._handlers

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def _add(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        timeout: float | None,
        retry: RetryPolicy | None,
        scope: Scope,
    ) -> None:
        if not callable(function):
            raise RegistryError(f"a handler must be a function, not {function!r}")
        name = name if name is not None else getattr(function, "__name__", "")
        if re.fullmatch(NAME_PATTERN, name) is None:
            raise RegistryError(f"{name!r} is not a task name: use 1 to 128 of A-Z, a-z, 0-9, '_', '.', ':' and '-'")
        if name in self._handlers:
            raise RegistryError(_taken(name, self._handlers[name], function))
        if any(
            inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target) for target in called(function)
        ):
            raise RegistryError(f"handler {name!r} is a generator; a handler is a coroutine function or a function")
        if timeout is not None and not (isinstance(timeout, (int, float)) and 0 < timeout < float("inf")):
            raise RegistryError(f"timeout of handler {name!r} must be over 0 seconds, not {timeout!r}")
        self._handlers[name] = Handler(name, function, timeout=timeout, retry=retry, scope=scope)


def _taken(name: str, handler: Handler, function: Callable[..., Any]) -> str:
    first, second = handler.function, function
    return (
        f"task {name!r} is registered already, by {first.__module__}.{getattr(first, '__qualname__', first)}; "
        f"give {second.__module__}.{getattr(second, '__qualname__', second)} another name=…"
    )


def _is_context(name: str, parameter: inspect.Parameter) -> bool:
    """Return whether a parameter is a `TaskContext`, be it optional or annotated with more."""
    annotation = parameter.annotation
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    choices = typing.get_args(annotation) if typing.get_origin(annotation) in _UNIONS else (annotation,)
    if TaskContext not in choices:
        return False
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise RegistryError(
            f"parameter {str(parameter).partition(':')[0]} of handler {name!r} can't be a TaskContext: "
            "there is one, give it a name of its own"
        )
    return True
