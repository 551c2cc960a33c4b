"""HandlerRegistry: what may be a handler, and what is refused when it is written."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from qbridge import HandlerRegistry, RegistryError, RetryPolicy, TaskContext, UnknownTaskError
from tests.support import foreign_handlers


class Shop:
    """Something with methods."""

    async def pay(self, order: int) -> int:
        """Be a bound method that is a coroutine function."""
        return order

    async def __call__(self, order: int) -> int:
        """Be a callable object whose call is a coroutine function."""
        return order


class PlainShop:
    """A callable object that is no coroutine function."""

    def __call__(self, order: int) -> int:
        """Be called."""
        return order


class GeneratorShop:
    """A callable object that is a generator."""

    def __call__(self, order: int) -> Iterator[int]:
        """Be called."""
        yield order


def generator() -> Iterator[int]:
    """Be a generator."""
    yield 1


async def async_generator() -> AsyncIterator[int]:
    """Be an async generator."""
    yield 1


def plain(order: int) -> int:
    """Be a plain function."""
    return order


async def coroutine(order: int) -> int:
    """Be a coroutine function."""
    return order


def two_contexts(one: TaskContext, other: TaskContext) -> None:
    """Ask for two contexts."""


def context_rest(*contexts: TaskContext) -> None:
    """Ask for any number of contexts."""


def context_names(**contexts: TaskContext) -> None:
    """Ask for contexts by any name."""


def plain_with_context(a: int, context: TaskContext, b: int = 2) -> int:
    """Take a context between the arguments."""
    return a


def test_a_handler_is_found_by_its_own_name_or_a_given_one() -> None:
    """The decorator takes the function's name, or the one it is told, and returns the function itself."""
    registry = HandlerRegistry()

    @registry.task
    async def greet(name: str) -> None: ...

    @registry.task(name="shop.pay:v2", timeout=2, retry=RetryPolicy(max_attempts=1))
    def pay(order: int) -> None: ...

    assert ["greet", "shop.pay:v2"] == list(registry)
    assert (2, True, False) == (len(registry), "greet" in registry, "pay" in registry)
    assert (pay, 2, 1) == (
        registry["shop.pay:v2"].function,
        registry["shop.pay:v2"].timeout,
        registry["shop.pay:v2"].retry and registry["shop.pay:v2"].retry.max_attempts,
    )
    assert (greet, None, None) == (
        registry["greet"].function,
        registry["greet"].timeout,
        registry["greet"].retry,
    )
    assert registry.find("pay") is None


def test_an_unknown_name_brings_the_nearest_one() -> None:
    """Asking for a task that isn't there names those that are."""
    registry = HandlerRegistry()
    registry.task(name="greet")(plain)

    with pytest.raises(UnknownTaskError) as refusal:
        registry["gret"]

    assert "no handler is registered for task 'gret' (known: greet); did you mean 'greet'?" == str(refusal.value)


@pytest.mark.parametrize(
    ("function", "is_coroutine"),
    [
        (plain, False),
        (coroutine, True),
        (functools.partial(plain, 1), False),
        (functools.partial(coroutine), True),
        (Shop(), True),
        (Shop().pay, True),
        (functools.partial(Shop()), True),
        (PlainShop(), False),
        (functools.partial(PlainShop(), 1), False),
        (lambda order: order, False),
        (len, False),
    ],
)
def test_anything_callable_with_a_signature_may_be_a_handler(function: Callable[..., Any], is_coroutine: bool) -> None:
    """Functions, partials, methods and callable objects are handlers, and it is known which of them are coroutines."""
    registry = HandlerRegistry()

    registry.task(name="handler")(function)

    assert is_coroutine == registry["handler"].is_coroutine


@pytest.mark.parametrize(
    ("function", "settings", "text"),
    [
        (5, {}, "a handler must be a function, not 5"),
        (
            lambda: None,
            {},
            "'<lambda>' is not a task name: use 1 to 128 of A-Z, a-z, 0-9, '_', '.', ':' and '-'",
        ),
        (plain, {"name": "pay\n"}, r"'pay\n' is not a task name: use 1 to 128 of A-Z, a-z, 0-9, '_', '.', ':' and '-'"),
        (plain, {"name": ""}, "'' is not a task name: use 1 to 128 of A-Z, a-z, 0-9, '_', '.', ':' and '-'"),
        (generator, {}, "handler 'generator' is a generator; a handler is a coroutine function or a function"),
        (
            async_generator,
            {},
            "handler 'async_generator' is a generator; a handler is a coroutine function or a function",
        ),
        (
            GeneratorShop(),
            {"name": "shop"},
            "handler 'shop' is a generator; a handler is a coroutine function or a function",
        ),
        (plain, {"timeout": 0}, "timeout of handler 'plain' must be over 0 seconds, not 0"),
        (plain, {"timeout": float("inf")}, "timeout of handler 'plain' must be over 0 seconds, not inf"),
        (plain, {"timeout": float("nan")}, "timeout of handler 'plain' must be over 0 seconds, not nan"),
        (plain, {"timeout": "5s"}, "timeout of handler 'plain' must be over 0 seconds, not '5s'"),
        (
            int,
            {},
            "the signature of handler 'int' can't be read: no signature found for builtin type <class 'int'> "
            "(types that annotations name must be importable at run time, not only under TYPE_CHECKING)",
        ),
    ],
)
def test_what_can_t_be_a_handler_is_refused(function: Any, settings: dict[str, Any], text: str) -> None:
    """The fault is told where the handler is written, not when its first message comes."""
    with pytest.raises(RegistryError) as refusal:
        HandlerRegistry().task(**settings)(function)

    assert text == str(refusal.value)


def test_a_name_is_taken_once() -> None:
    """The second handler of one name is refused; the text names both, and the first one stays."""
    registry = HandlerRegistry()
    registry.task(name="pay")(plain)

    with pytest.raises(RegistryError) as refusal:
        registry.task(name="pay")(coroutine)

    assert f"task 'pay' is registered already, by {__name__}.plain; give {__name__}.coroutine another name=…" == str(
        refusal.value
    )
    assert plain is registry["pay"].function


def test_an_annotation_that_can_t_be_resolved_is_told() -> None:
    """A type that is imported for the type checker only is a fault at registration."""

    def handler(order: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # what the test is about

    with pytest.raises(RegistryError, match=r"name 'Missing' is not defined \(types that"):
        HandlerRegistry().task(handler)


def test_an_annotation_that_pydantic_can_t_check_is_told() -> None:
    """A parameter of a type without a schema is a fault at registration."""

    def handler(shop: Shop) -> None: ...

    with pytest.raises(RegistryError, match="pydantic can't validate the signature of handler 'handler': "):
        HandlerRegistry().task(handler)


def test_include_takes_all_or_nothing() -> None:
    """A registry that brings a name that is taken brings none of its handlers; one included twice is no clash."""
    registry, first, second = HandlerRegistry(), HandlerRegistry(), HandlerRegistry()
    first.task(name="pay")(plain)
    second.task(name="new")(plain)
    second.task(name="pay")(coroutine)
    registry.include(first)
    registry.include(first)

    with pytest.raises(RegistryError) as refusal:
        registry.include(second)

    assert f"task 'pay' is registered already, by {__name__}.plain; give {__name__}.coroutine another name=…" == str(
        refusal.value
    )
    assert ["pay"] == list(registry)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (two_contexts, "handler 'handler' has 2 TaskContext parameters, it may have one"),
        (
            context_rest,
            "parameter *contexts of handler 'handler' can't be a TaskContext: there is one, give it a name of its own",
        ),
        (
            context_names,
            "parameter **contexts of handler 'handler' can't be a TaskContext: there is one, give it a name of its own",
        ),
    ],
)
def test_a_handler_has_one_context(function: Callable[..., Any], text: str) -> None:
    """There is one context for a message, in one parameter."""
    with pytest.raises(RegistryError) as refusal:
        HandlerRegistry().task(name="handler")(function)

    assert text == str(refusal.value)


def test_a_handler_s_signature_is_what_must_be_sent() -> None:
    """The signature that commands show leaves out the context."""
    registry = HandlerRegistry()
    registry.task(plain_with_context)

    assert "(a: int, b: int = 2)" == str(registry["plain_with_context"].signature)
    assert inspect.Signature.empty is registry["plain_with_context"].signature.return_annotation


def test_local_types_are_understood() -> None:
    """Annotations of a handler written in a function may name what is local there, though they are text."""

    class Local(BaseModel):
        number: int

    def handler(local: Local) -> int:
        return local.number

    registry = HandlerRegistry()
    registry.task(handler)

    assert Local is registry["handler"].signature.parameters["local"].annotation


def test_a_handler_s_types_are_those_of_its_own_module() -> None:
    """A handler registered elsewhere keeps its types, though the place of registration has others of their names."""

    class Order(BaseModel):
        number: int

    registry = HandlerRegistry()
    registry.task(foreign_handlers.take)

    assert foreign_handlers.Order is registry["take"].signature.parameters["order"].annotation
