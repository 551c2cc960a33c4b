"""Work is handed to a loop in another thread, and the main thread goes on at once.

The handler blocks its loop on purpose. The main thread doesn't notice: it counts while the handler sleeps.
"""

import asyncio
import threading
import time

from qbridge import HandlerRegistry, QBridge

registry = HandlerRegistry()


@registry.task
async def block(seconds: float) -> None:
    """Block the loop that runs this handler, as careless code does."""
    print(f"work on {threading.current_thread().name}: blocking for {seconds} s", flush=True)
    time.sleep(seconds)
    print("work: done", flush=True)


async def main() -> None:
    """Hand the work over, go on, and leave when it is done."""
    async with QBridge(registry) as bridge:
        running = asyncio.create_task(bridge.run(burst=True))
        await bridge.send("block", 1.0)
        ticks = 0
        while not running.done():
            ticks += 1
            await asyncio.sleep(0.05)
        await running
        print(f"{threading.current_thread().name}: went on, {ticks} ticks meanwhile", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
