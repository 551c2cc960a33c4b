"""What could tell a password is taken out of exceptions."""

from __future__ import annotations

import re

__all__ = ["mask"]

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


def _masked(text: str, password: str | None) -> str:
    text = _REPEATED.sub("", text)
    return text.replace(password, "***") if password else text
