"""What could tell a password is taken out of exceptions and of pydantic's errors."""

from __future__ import annotations

import re

from pydantic import ValidationError
from pydantic_core import InitErrorDetails

__all__ = ["mask", "without_inputs"]

#: A server without the command that logs in repeats it, with the password.
_REPEATED = re.compile(r", with args beginning with: .*", re.DOTALL)


def mask(exc: BaseException, password: str | None) -> None:
    """Take a password, and a command that was sent, out of the texts of an exception and of what it came from."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [exc]
    while waiting:
        current = waiting.pop()
        if current is None or current in seen:
            continue
        seen.append(current)
        current.args = tuple(_masked(each, password) if isinstance(each, str) else each for each in current.args)
        waiting += (current.__cause__, current.__context__)


def without_inputs(error: ValidationError) -> ValidationError:
    """Return the same error without what was given, which may be secret: pydantic's `errors()` would tell it."""
    details: list[InitErrorDetails] = []
    for each in error.errors(include_url=False, include_input=False):
        context = dict(each.get("ctx", {}))
        if "error" in context:  # has a traceback, which holds what was given
            context["error"] = ValueError(str(context["error"]))
        details.append(InitErrorDetails(type=each["type"], loc=each["loc"], input=None, ctx=context))
    return ValidationError.from_exception_data(error.title, details, hide_input=True)


def _masked(text: str, password: str | None) -> str:
    text = _REPEATED.sub("", text)
    return text.replace(password, "***") if password else text
