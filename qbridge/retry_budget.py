"""RetryBudget: whether the work that succeeds still pays for what fails. Arithmetic only: no clock, no I/O."""

from __future__ import annotations

__all__ = ["RetryBudget"]

#: The share of the reserve that must be earned before a spent budget is one again, so that it doesn't flutter.
_RECOVERED = 0.1


class RetryBudget:
    """How many failed attempts one queue can still afford.

    Each success earns `ratio`, up to `reserve`; each failed attempt spends one, down to nothing. It begins full. It is
    spent when less than one is left, and until a tenth of the reserve, but at least one, is earned again.

    Args:
        ratio: Failed attempts that a success pays for; 0 turns the budget off: it is never spent.
        reserve: Failed attempts that can be saved up, at least 1.
    """

    def __init__(self, *, ratio: float, reserve: int) -> None:
        self._ratio = ratio
        self._reserve = float(reserve)
        self.left = float(reserve)
        #: Whether more has failed than was earned.
        self.is_spent = False

    def count(self, *, succeeded: int, failed: int) -> None:
        """Take note of attempts that have ended: first of the successes, then of the failures."""
        if not self._ratio:
            return
        self.left = max(0.0, min(self._reserve, self.left + self._ratio * succeeded) - failed)
        if self.is_spent:
            self.is_spent = self.left < max(1.0, self._reserve * _RECOVERED)
        else:
            self.is_spent = self.left < 1.0
