"""The handler of the recovery measurement: notes when it starts, and runs until it is let go."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from qbridge import HandlerRegistry

__all__ = ["registry"]

registry = HandlerRegistry()

_starts = os.open("starts", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@registry.task
async def hold(number: int, until: str) -> None:
    """Run until there is a file of this name."""
    os.write(_starts, f"{number} {os.getpid()} {time.time():.6f}\n".encode())
    while not Path(until).exists():  # noqa: ASYNC110, ASYNC240  # a file has no event
        await asyncio.sleep(0.05)
