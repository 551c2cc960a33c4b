"""Two coroutines of 6 s and 4 s, sent one after the other, end after 6 s, not 10."""

import asyncio
import time

from qbridge import HandlerRegistry, QBridge

registry = HandlerRegistry()


@registry.task
async def do_some_work(seconds: float) -> None:
    """Wait for something that takes a while, without holding up anybody else."""
    print(f"Waiting {seconds:g}", flush=True)
    await asyncio.sleep(seconds)
    print(f"Done {seconds:g}", flush=True)


async def main() -> None:
    """Send both, and run until nothing is left."""
    async with QBridge(registry) as bridge:
        await bridge.send("do_some_work", 6)
        await bridge.send("do_some_work", 4)
        began = time.monotonic()
        await bridge.run(burst=True)
        print(f"both took {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
