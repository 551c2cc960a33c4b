"""The quickstart's handlers: two coroutines and a plain function."""

import asyncio
import hashlib
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from qbridge import HandlerRegistry, Retry, RetryPolicy, TaskContext

registry = HandlerRegistry()


class Order(BaseModel):
    """What the shop sends when somebody buys."""

    number: int
    placed_at: datetime
    items: list[str]


@registry.task
async def confirm_order(order: Order, context: TaskContext) -> None:
    """Confirm an order, as a call to a mail service would: by waiting for somebody else."""
    waiting = 0.02 * len(order.items)
    print(f"confirm_order {order.number}: waiting {waiting:.2f} s on {context.loop_thread}", flush=True)
    await asyncio.sleep(waiting)
    print(f"confirm_order {order.number}: done", flush=True)


@registry.task(timeout=5, retry=RetryPolicy(max_attempts=3, base=0.1, cap=1))
async def reserve_stock(item: str, count: Annotated[int, Field(ge=1)], context: TaskContext) -> None:
    """Reserve stock; the first attempt for a rare item finds the shelf locked and is tried again."""
    if item == "rare" and context.attempt == 1:
        raise Retry("the shelf is locked")
    await asyncio.sleep(0.01)
    print(f"reserve_stock {count} x {item}: done in attempt {context.attempt}", flush=True)


@registry.task
def print_label(text: str) -> None:
    """Compute a label's checksum: a plain function, so it runs in a worker thread, never on a loop."""
    digest = hashlib.pbkdf2_hmac("sha256", text.encode(), b"label", 20_000).hex()[:12]
    print(f"print_label {text!r}: checksum {digest}", flush=True)
