"""Stepper: event loops, each in its own thread, that take turns, and a clock that moves only when they all wait.

Code that runs on several loops is driven by a test, one event at a time, and does the same each time: a loop runs only
while it has the turn, and gives it back when it has nothing more to do. The threads are real, the loops' callbacks
and timers too; what isn't real is the time, and who comes next.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

from qbridge_memory import ManualClock

__all__ = ["SteppedLoop", "Stepper"]

T = TypeVar("T")

#: Real seconds within which a loop gives its turn back, and a thread starts; far more than a busy machine needs.
_PATIENCE = 20.0

#: Rounds of one turn after which a loop is taken for one that spins: nothing here has that much to do at once.
_MAX_ROUNDS = 5_000

#: Seconds that the clock moves at least from one timer to the next, so that rounding can't let it stand still.
_TICK = 1e-6

#: Seconds that a look at the clock takes.
_LOOK = 1e-9

_Events = list[tuple[selectors.SelectorKey, int]]


class _Clock(ManualClock):
    """A clock that moves a little whenever it is looked at, as whoever looks takes his time."""

    def __init__(self) -> None:
        super().__init__(1000.0)
        self._looks = 0

    def __call__(self) -> float:
        self._looks += 1
        return super().__call__() + self._looks * _LOOK


class _TestIsOverError(Exception):
    """Ends what runs on a loop when a test has failed."""


class _TurnSelector(selectors.DefaultSelector):
    """Where a loop waits for events and timers: here it waits for its turn instead."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.has_turn = False
        #: Whether the test has failed: the loop then ends, as fast as it can.
        self.is_over = False
        #: Rounds of the loop in its latest turn in which it had something to do.
        self.rounds = 0
        #: Whether a turn is a single round.
        self.is_slow = False
        #: When the loop's next timer is due.
        self.due = float("inf")
        self._clock = clock
        self._turn = threading.Semaphore(0)
        self._returned = threading.Semaphore(0)
        self._is_winding_up = False

    def select(self, timeout: float | None = None) -> _Events:
        if not self.has_turn:  # the loop's first round
            self.take_turn()
        elif self.is_slow and self.rounds and not self.is_over:
            self.wait()
        events = super().select(0)
        if not events and timeout != 0:
            self.due = float("inf") if timeout is None else self._clock() + timeout
            if self.is_over:
                self._pass_over(timeout)
            else:
                self.wait()
            events = super().select(0)
        if events or timeout == 0:
            self.rounds += 1
            assert self.rounds < _MAX_ROUNDS, f"a loop spins: {self.rounds} rounds, and no end of what it has to do"
        return events

    def wait(self) -> None:
        """Do nothing until it is the loop's turn again."""
        self.give_back()
        self.take_turn()

    def grant(self) -> None:
        """Give the loop its turn, and wait until it gives it back."""
        self._turn.release()
        assert self._returned.acquire(timeout=_PATIENCE), "a loop keeps its turn: something blocks it, or it has died"

    def take_turn(self) -> None:
        """Wait for the turn."""
        self._turn.acquire()
        self.has_turn = True

    def give_back(self) -> None:
        """Let the stepper go on."""
        if self.has_turn:
            self.has_turn = False
            self._returned.release()

    def _pass_over(self, timeout: float | None) -> None:
        """End the loop; what its thread runs on it to wind up gets all the time it waits for, at once."""
        if timeout is None or not self._is_winding_up:
            self._is_winding_up = True
            raise _TestIsOverError
        self._clock.advance(timeout)


class _HomeSelector(_TurnSelector):
    """The selector of the loop that runs in the stepper's own thread."""

    loop: asyncio.AbstractEventLoop

    def take_turn(self) -> None:
        self.has_turn = True

    def wait(self) -> None:
        self.loop.stop()

    def grant(self) -> None:
        self.loop.run_forever()


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop that runs when it is its turn, by the stepper's clock. Made by the stepper."""

    def __init__(self, clock: ManualClock, turns: _TurnSelector) -> None:
        self._told_time = clock
        self._turns = turns
        self._runner: threading.Thread | None = None
        #: Whether something blocks it: it gets no turn until that has an end.
        self.is_blocked = False
        #: Whether anything ever did.
        self.was_blocked = False
        super().__init__(turns)

    def time(self) -> float:
        """Return the seconds that the stepper's clock shows."""
        return self._told_time()

    def run_forever(self) -> None:
        """Run, turn by turn."""
        self._runner = threading.current_thread()
        super().run_forever()

    def close(self) -> None:
        """Close it; that ends its last turn."""
        super().close()
        self._turns.give_back()

    def block(self) -> None:
        """Called by what runs on it: return when `is_blocked` is no longer set, and run nothing else until then."""
        self.is_blocked = self.was_blocked = True
        self._turns.wait()
        if self._turns.is_over:
            raise _TestIsOverError

    @property
    def has_begun(self) -> bool:
        """Whether it runs in a thread, or did."""
        return self._runner is not None

    @property
    def is_steppable(self) -> bool:
        """Whether it can take a turn."""
        return self.has_begun and not self.is_blocked and not self.is_closed()

    @property
    def due(self) -> float:
        """When its next timer is due."""
        return self._turns.due if self.is_steppable else float("inf")

    def turn(self, *, is_slow: bool) -> bool:
        """Let it run until it has nothing more to do, or for one round; return whether it had anything to do."""
        if not self.is_steppable:
            return False
        self._turns.rounds, self._turns.is_slow = 0, is_slow
        self._turns.grant()
        if self.is_closed() and self._runner is not None:  # its thread only tells others of its end, and ends
            self._runner.join(_PATIENCE)
            return True
        return self._turns.rounds > 0

    def end(self) -> None:
        """End its thread, whatever it does there."""
        self.is_blocked = False
        self._turns.is_over = True
        while self.is_steppable:
            self.turn(is_slow=False)


class Stepper:
    """The loops of one test, and their time. Belongs to the test's thread, in which its home loop runs.

    While `patched`, each event loop that is made is one of its own, and the modules of qbridge tell its time.
    """

    def __init__(self) -> None:
        self.clock: ManualClock = _Clock()
        selector = _HomeSelector(self.clock)
        self.home = selector.loop = SteppedLoop(self.clock, selector)
        self.home.run_until_complete(asyncio.sleep(0))
        #: The loops of other threads.
        self.loops: list[SteppedLoop] = []
        self._threads_before = threading.active_count()

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Let everything run on its loops and by its clock."""
        timed = [
            module
            for name, module in list(sys.modules.items())
            if name.startswith(("qbridge", "tests.support")) and getattr(module, "monotonic", None) is time.monotonic
        ]
        with mock.patch.object(asyncio, "new_event_loop", self._new_loop):
            for module in timed:
                module.monotonic = self.clock  # type: ignore[attr-defined]  # it was found there
            try:
                yield
            finally:
                for module in timed:
                    module.monotonic = time.monotonic  # type: ignore[attr-defined]  # it was found there

    def settle(self, *, home_first: bool = True, is_slow: bool = False) -> None:
        """Let the loops take turns until none has anything to do at this time.

        Args:
            home_first: Whether the home loop's turns come before the others'.
            is_slow: Whether they take turns after each round, instead of each running as long as it can.
        """
        quiet = 0
        while quiet < 2:  # what one has done in its turn may be news for another that had its turn before
            self._await_threads()
            turns = [self.home, *self.loops] if home_first else [*self.loops, self.home]
            was_busy = [loop.turn(is_slow=is_slow) for loop in turns]
            quiet = 0 if any(was_busy) else quiet + 1

    def pass_time(self, seconds: float) -> None:
        """Let time pass, from timer to timer, each at its time."""
        end = self.clock() + seconds
        self.settle()
        while (due := min(loop.due for loop in (self.home, *self.loops))) < end:
            self.clock.advance(max(due - self.clock(), _TICK))
            self.settle()
        self.jump(end - self.clock())

    def jump(self, seconds: float) -> None:
        """Let time pass at once, as for a process that was stopped: whatever was due comes late."""
        self.clock.advance(max(seconds, 0.0))
        self.settle()

    def run(self, coroutine: Coroutine[Any, Any, T], *, within: float = 0.0) -> T:
        """Run a coroutine on the home loop; return its result, which it has within that many of the clock's seconds."""
        task = self.home.create_task(coroutine)
        self.settle()
        end = self.clock() + within
        while not task.done() and (due := min(loop.due for loop in (self.home, *self.loops))) <= end:
            self.pass_time(max(due - self.clock(), _TICK))
        assert task.done(), f"{task!r} did not end within {within} s"
        return task.result()

    def close(self) -> None:
        """Close the home loop. The others were closed by those who had them made, unless the test has failed."""
        for loop in self.loops:
            loop.end()
        self.home.close()

    def _new_loop(self) -> SteppedLoop:
        loop = SteppedLoop(self.clock, _TurnSelector(self.clock))
        self.loops.append(loop)
        return loop

    def _await_threads(self) -> None:
        """Wait for threads that were started and whose loops don't wait for their turn yet."""
        deadline = time.monotonic() + _PATIENCE
        while threading.active_count() - self._threads_before > sum(
            loop.has_begun and not loop.is_closed() for loop in self.loops
        ):
            assert time.monotonic() < deadline, f"threads without a loop run: {threading.enumerate()}"
            time.sleep(0.0001)
