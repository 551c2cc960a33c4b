"""Jobs for tests of what runs them: a function and its arguments, as a delivery would have brought them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any

from qbridge import Delivery, HandlerRegistry, RetryPolicy, TaskMessage
from qbridge.execution import Job

__all__ = ["STEADY", "make_job", "no_send"]

#: Three attempts, half a second apart.
STEADY = RetryPolicy(max_attempts=3, backoff="constant", base=0.5, jitter=False)

_receipts = count(1)


def make_job(
    function: Callable[..., Any], *args: Any, attempt: int = 1, timeout: float | None = None, **kwargs: Any
) -> Job:
    """Return a job that calls a function with these arguments, with three attempts half a second apart."""
    registry = HandlerRegistry()
    registry.task(name="handler", timeout=timeout)(function)
    receipt = next(_receipts)
    return Job(
        Delivery(body=b"", receipt=receipt, message_id=f"m{receipt}", attempt=attempt),
        TaskMessage(id=f"m{receipt}", task="handler", args=list(args), kwargs=kwargs, headers={"h": "x"}),
        registry["handler"],
        queue="q",
        retry=STEADY,
        owner=None,
        claimed_at=monotonic(),
    )


async def no_send(*args: Any, **kwargs: Any) -> str:
    """Refuse to send."""
    raise AssertionError("nothing is sent in this test")
