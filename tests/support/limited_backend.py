"""Backends that can do less than others or don't answer, installed by an entry point in a folder of its own."""

from __future__ import annotations

import textwrap
from pathlib import Path

__all__ = ["install_limited_backends"]

_MODULE = """
    import asyncio
    import dataclasses

    from qbridge import Backend, QueueStats, SourceUnavailable
    from qbridge_memory import MemoryOptions, MemorySource, backend as memory

    SHARED = dataclasses.replace(memory.capabilities, shared=True)

    class Silent(MemorySource):
        async def stats(self):
            await asyncio.get_running_loop().create_future()

    class Timeless(MemorySource):
        async def stats(self):
            return QueueStats(ready=1, delayed=0, in_flight=0, dead=0, oldest_body=BODY)

    BODY = b'{"v": 1, "task": "greet", "enqueued_at": 1000.0}'

    def make(name, kind=MemorySource, **without):
        return Backend(
            name=name,
            summary="a backend of tests",
            options=MemoryOptions,
            capabilities=dataclasses.replace(SHARED, **without),
            create=lambda queue, options: kind(queue, options, broker=options.broker),
            needs={"no_such_client": "pip install no-such-client"} if name == "clientless" else {},
            example={},
        )

    prompt = make("prompt", delay=False)
    forgetful = make("forgetful", dead_letters=False)
    silent = make("silent", Silent)
    timeless = make("timeless", Timeless)
    clientless = make("clientless")
"""

_NAMES = ("prompt", "forgetful", "silent", "timeless", "clientless")


def install_limited_backends(folder: Path) -> None:
    """Make backends that are found by whoever has the folder on its path.

    `prompt` delays nothing, `forgetful` keeps no dead letters, `silent` never tells its stats, `timeless` knows no
    ages but shows its oldest message, and the client library of `clientless` is missing.
    """
    package = folder / "limited_backends-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: limited-backends\nVersion: 1\n")
    entries = "".join(f"{name} = limited_backends:{name}\n" for name in _NAMES)
    (package / "entry_points.txt").write_text(f"[qbridge.backends]\n{entries}")
    (folder / "limited_backends.py").write_text(textwrap.dedent(_MODULE))
