"""A process that claims messages and is then killed: started by `kill_consumers_process`, and by nobody else."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from qbridge import Backend

__all__ = ["kill_consumers_process"]

_PATIENCE = 20.0


async def kill_consumers_process(backend: str, queue: str, options: Mapping[str, object], count: int) -> None:
    """Let a new process claim `count` messages of a queue, and end it with SIGKILL.

    Args:
        backend: The name of the backend's entry point.
        queue: The queue's name.
        options: The backend's options, as the YAML has them.
        count: Messages to claim.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, backend, queue, json.dumps(options), str(count)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PATIENCE):
            claimed = await process.stdout.readline()
    finally:
        process.kill()
        await process.wait()
    assert f"claimed {count}\n".encode() == claimed


async def _claim(backend_name: str, queue: str, options: str, count: int) -> None:
    [entry_point] = entry_points(group="qbridge.backends", name=backend_name)
    backend: Backend[Any] = entry_point.load()
    source = backend.create(queue, backend.options.model_validate_json(options))
    await source.open()
    claimed = 0
    end = time.monotonic() + _PATIENCE / 2
    while claimed < count and time.monotonic() < end:
        claimed += len(await source.receive(count - claimed, 1))
    print(f"claimed {claimed}", flush=True)
    await asyncio.Event().wait()  # until the SIGKILL


if __name__ == "__main__":
    asyncio.run(_claim(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
