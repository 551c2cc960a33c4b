"""RetryPolicy: when a failed message is tried again. Arithmetic only: no clock, no I/O."""

from __future__ import annotations

import random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qbridge.units import Duration

__all__ = ["RetryPolicy"]

#: 2 ** 64 seconds is past every cap; a larger exponent would overflow a float one day.
_MAX_EXPONENT = 64


class RetryPolicy(BaseModel):
    """How often and how late a message is tried again.

    The pause after attempt n is `base * 2 ** (n - 1)` (exponential), `base * n` (linear) or `base` (constant), never
    over `cap`. With jitter, half of it is fixed and half is random ("equal jitter"): full jitter may fall to almost
    nothing and burn all attempts within seconds.

    Attributes:
        max_attempts: Starts of a handler, the first one included; then the message is a dead letter `exhausted`.
        backoff: How the pause grows.
        base: Seconds of the first pause.
        cap: Seconds that no pause exceeds.
        jitter: Whether pauses are randomised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    backoff: Literal["exponential", "linear", "constant"] = "exponential"
    base: Duration = 1.0
    cap: Duration = 300.0
    jitter: bool = True

    @model_validator(mode="after")
    def _base_within_cap(self) -> RetryPolicy:
        if self.base > self.cap:
            raise ValueError(f"base ({self.base:g}s) is over cap ({self.cap:g}s): raise cap or lower base")
        return self

    def allows_another(self, attempt: int) -> bool:
        """Return whether a message that failed in its `attempt`-th attempt (from 1) is tried again."""
        return attempt < self.max_attempts

    def delay_after(self, attempt: int, rng: random.Random | None = None) -> float:
        """Return the seconds to wait after the `attempt`-th attempt (from 1) failed.

        Args:
            attempt: Which attempt failed, from 1.
            rng: Fixes the jitter, for tests; None draws from the module's generator.

        Returns:
            Seconds in [0, cap]; with jitter at least half of what it would be without.
        """
        if self.backoff == "exponential":
            pause = self.base * 2.0 ** min(max(attempt, 1) - 1, _MAX_EXPONENT)
        elif self.backoff == "linear":
            pause = self.base * max(attempt, 1)
        else:
            pause = self.base
        pause = min(pause, self.cap)
        if not self.jitter:
            return pause
        uniform = rng.random() if rng is not None else random.random()
        return pause / 2 + pause / 2 * uniform
