"""The worker's one handler. Anybody may `LPUSH queue 5`; Ctrl-C loses nothing of what was running."""

import asyncio

from qbridge import HandlerRegistry

registry = HandlerRegistry()


@registry.task
async def do_some_work(seconds: float) -> None:
    """Wait for something that takes a while."""
    print(f"Waiting {seconds:g}", flush=True)
    await asyncio.sleep(seconds)
    print(f"Done {seconds:g}", flush=True)
