"""What could tell a password is taken out of pydantic's errors."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import InitErrorDetails

__all__ = ["without_inputs"]


def without_inputs(error: ValidationError) -> ValidationError:
    """Return the same error without what was given, which may be secret: pydantic's `errors()` would tell it."""
    details: list[InitErrorDetails] = []
    for each in error.errors(include_url=False, include_input=False):
        context = dict(each.get("ctx", {}))
        if "error" in context:  # has a traceback, which holds what was given
            context["error"] = ValueError(str(context["error"]))
        details.append(InitErrorDetails(type=each["type"], loc=each["loc"], input=None, ctx=context))
    return ValidationError.from_exception_data(error.title, details, hide_input=True)
