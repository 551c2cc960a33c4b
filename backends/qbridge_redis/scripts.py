"""The Lua scripts that do everything that must be one step: read from `lua/`, named by their digest."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

__all__ = ["Script", "Scripts", "load_scripts"]


class Script(NamedTuple):
    """One script.

    Attributes:
        name: The file it comes from, without the suffix.
        source: What the server is given.
        digest: The SHA-1 by which EVALSHA calls it.
    """

    name: str
    source: str
    digest: str


class Scripts(NamedTuple):
    """All scripts; what each takes and returns stands at the top of its file."""

    claim: Script
    settle: Script
    keep_alive: Script
    send: Script
    stats: Script
    dead_letters: Script
    exhume: Script


@cache
def load_scripts() -> Scripts:
    """Read the scripts from the package.

    Those that take messages out or move them may run on a full server (`allow-oom`): else it could never be drained.
    Sending may not, so that a full server refuses it.
    """
    return Scripts(
        claim=_read("claim", "allow-oom"),
        settle=_read("settle", "allow-oom"),
        keep_alive=_read("keep_alive", "allow-oom"),
        send=_read("send", ""),
        stats=_read("stats", "no-writes,allow-oom"),
        dead_letters=_read("dead_letters", "no-writes,allow-oom"),
        exhume=_read("exhume", "allow-oom"),
    )


def _read(name: str, flags: str) -> Script:
    folder = files("qbridge_redis") / "lua"
    shebang = f"#!lua flags={flags}\n" if flags else "#!lua\n"
    source = shebang + (folder / "common.lua").read_text("utf-8") + (folder / f"{name}.lua").read_text("utf-8")
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
