"""ManualClock: a clock that stands still until a test moves it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ManualClock"]


class ManualClock:
    """Seconds that pass only by `advance`; calling it tells the time, as `time.monotonic` does.

    May be moved from any thread. Whoever computed a pause from it registers in `listeners` to be told of a move.

    Args:
        now: Seconds that it shows at first.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        #: Called after each `advance`, in the thread that moved the clock.
        self.listeners: list[Callable[[], None]] = []

    def __call__(self) -> float:
        """Return the seconds it shows."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by `seconds` (0 or more), and let everybody who waits on this clock look again.

        Raises:
            ValueError: If `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"a clock doesn't run backwards: advance({seconds!r})")
        self._now += seconds
        for listener in self.listeners:
            listener()
