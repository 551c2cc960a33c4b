"""The worker as a state machine: whatever happens in whatever order, each claim is settled or returned once.

Hypothesis makes up lives of a worker: messages come, handlers end, fail, hang, block; connections break at every call,
before its effect and after it; leases get lost; rivals take messages; the worker leaves. After every step, and at the
end, the rules are checked. `QBRIDGE_CHAOS_LIVES` sets how many lives; otherwise 60, and 1000 with `QBRIDGE_CHAOS=long`.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qbridge import SourceUnavailable
from tests.support.audited_source import End
from tests.support.scripted_source import HANG, Unanswered
from tests.support.simulation import A_LOOK, LEASE, Simulation
from tests.support.simulation_rules import check_credit, check_memory, check_progress, check_rules
from tests.support.waiting import Latch

LIVES = int(os.environ.get("QBRIDGE_CHAOS_LIVES", "1000" if os.environ.get("QBRIDGE_CHAOS") == "long" else "60"))

GONE = SourceUnavailable("connection refused")

CALLS = ["open", "receive", "settle", "keep_alive"]

T = TypeVar("T")

pick = st.integers(0, 30)


class WorkerLife(RuleBasedStateMachine):
    """One worker, from its start to its end."""

    simulation: Simulation

    @initialize(
        threads=st.integers(1, 2),
        concurrency=st.integers(1, 3),
        queues=st.integers(1, 2),
        read_ahead=st.integers(0, 2),
        max_crashes=st.sampled_from([2, 3, 1]),
        replace_after=st.sampled_from([None, 4.0]),
        least_age=st.integers(0, 45),
        may_fail=st.booleans(),
    )
    def begin(self, least_age: int, may_fail: bool, **settings: Any) -> None:
        """Start the worker; it is not asked to leave before it has this age, in steps."""
        self.latches: list[Latch] = []
        #: Whether connections may break; if not, no lease may run out.
        self.may_fail = may_fail
        self.steps_left = least_age
        self.simulation = Simulation(**settings)

    @rule(queue=pick, kind=st.sampled_from(["act", "act", "limited"]), count=st.integers(1, 5))
    def send(self, queue: int, kind: str, count: int) -> None:
        """Messages that a handler takes."""
        self.simulation.send(self._queue(queue), kind, count=count)

    @rule(queue=pick, kind=st.sampled_from(["undecodable", "unknown", "invalid"]))
    def send_bad(self, queue: int, kind: str) -> None:
        """A message that can't be run."""
        self.simulation.send(self._queue(queue), kind)

    @rule(queue=pick, delay=st.sampled_from([0.5, 3.0, 8.0]))
    def send_delayed(self, queue: int, delay: float) -> None:
        """A message for later."""
        self.simulation.send(self._queue(queue), "act", delay=delay)

    @precondition(lambda self: self.simulation.active)
    @rule(index=pick, how=st.sampled_from([End.RETURN, End.RETURN, End.FAIL, End.RETRY, End.REJECT]))
    def end(self, index: int, how: End) -> None:
        """A handler ends."""
        self.simulation.end(_one(self.simulation.active, index), how)

    @precondition(lambda self: self.simulation.active)
    @rule(index=pick)
    def be_deaf(self, index: int) -> None:
        """A handler ignores cancelling from here on."""
        self.simulation.be_deaf(_one(self.simulation.active, index))

    @precondition(lambda self: self.simulation.active)
    @rule(index=pick)
    def block(self, index: int) -> None:
        """A handler blocks its loop."""
        self.simulation.block(_one(self.simulation.active, index))

    @precondition(lambda self: self.simulation.active and not self.simulation.is_held)
    @rule(index=pick, queue=pick, count=st.integers(0, 5), seconds=st.sampled_from([3.0, 6.0]), ends=st.booleans())
    def block_for_a_while(self, index: int, queue: int, count: int, seconds: float, ends: bool) -> None:
        """A handler blocks its loop for so long that this is seen, or the loop is given up; messages come meanwhile."""
        simulation = self.simulation
        simulation.block(_one(simulation.active, index))
        if count:
            simulation.send(self._queue(queue), "act", count=count)
        simulation.stepper.pass_time(seconds)
        for loop in simulation.blocked if ends else ():
            simulation.unblock(loop)

    @precondition(lambda self: self.simulation.blocked)
    @rule(index=pick)
    def unblock(self, index: int) -> None:
        """A blocked loop goes on."""
        self.simulation.unblock(_one(self.simulation.blocked, index))

    @precondition(lambda self: self.simulation.held_claims)
    @rule(index=pick)
    def steal(self, index: int) -> None:
        """The broker gives a message that is held here to another worker."""
        self.simulation.steal(*_one(self.simulation.held_claims, index))

    @precondition(lambda self: self.simulation.active and not self.simulation.is_held)
    @rule(index=pick, how=st.sampled_from(End), home_first=st.booleans())
    def end_as_lease_is_lost(self, index: int, how: End, home_first: bool) -> None:
        """A handler ends at the very moment at which the worker learns that its lease is lost."""
        simulation = self.simulation
        run = _one(simulation.active, index)
        found = [(name, claim) for name, claim in simulation.held_claims if claim.run is run]
        latch = Latch()
        for name, claim in found:
            simulation.sources[name].is_disturbed = True
            simulation.sources[name].script("keep_alive", latch)
            simulation.steal(name, claim)
        simulation.stepper.pass_time(LEASE / 3)
        simulation.is_held = True
        if run.end is None:
            simulation.end(run, End.RETURN if how is End.CANCELLED else how)
        latch.set()
        self.release(home_first, is_slow=True)

    @precondition(lambda self: not self.simulation.is_held)
    @rule(queue=pick, times=st.sampled_from([None, None, 1, 2]))
    def crash(self, queue: int, times: int | None) -> None:
        """A message has killed other workers: so many that the next one is warned, or any number."""
        self.simulation.crash(self._queue(queue), self.simulation.suspicious if times is None else times)

    @rule(queue=pick)
    def take(self, queue: int) -> None:
        """Another worker takes a message; its lease runs out one day, unless it ends it."""
        self.simulation.take(self._queue(queue))

    @precondition(lambda self: self.simulation.stolen)
    @rule()
    def finish_elsewhere(self) -> None:
        """Another worker ends a message."""
        self.simulation.finish_elsewhere()

    @precondition(lambda self: self.may_fail)
    @rule(queue=pick, call=st.sampled_from(CALLS), fault=st.sampled_from([GONE, GONE, RuntimeError("odd"), HANG]))
    def fail(self, queue: int, call: str, fault: Exception) -> None:
        """The next call of a method fails before it has an effect, or never returns."""
        source = self.simulation.sources[self._queue(queue)]
        source.is_disturbed = True
        source.script(call, fault)

    @precondition(lambda self: self.may_fail)
    @rule(queue=pick)
    def lose_reply_of_settle(self, queue: int) -> None:
        """The next settle has its effect, and its reply is lost."""
        source = self.simulation.sources[self._queue(queue)]
        source.is_disturbed = True
        source.script("settle", Unanswered(GONE))

    @precondition(lambda self: self.may_fail)
    @rule(queue=pick)
    def lose_reply_of_receive(self, queue: int) -> None:
        """The next receive with messages claims them, and its reply is lost."""
        source = self.simulation.sources[self._queue(queue)]
        source.is_disturbed = True
        source.replies_to_lose += 1

    @precondition(lambda self: self.may_fail)
    @rule(queue=pick, call=st.sampled_from(["receive", "settle", "keep_alive", "reply"]))
    def delay_call(self, queue: int, call: str) -> None:
        """The next call of a method takes its time."""
        source = self.simulation.sources[self._queue(queue)]
        source.is_disturbed = True
        latch = Latch()
        self.latches.append(latch)
        if call == "reply":
            source.held_reply = latch
        else:
            source.script(call, latch)

    @precondition(lambda self: self.latches)
    @rule()
    def go_on(self) -> None:
        """What takes its time goes on."""
        self.latches.pop(0).set()
        self.simulation.settle()

    @precondition(lambda self: self.may_fail)
    @rule(queue=pick, calls=st.sets(st.sampled_from(CALLS), min_size=1))
    def break_(self, queue: int, calls: set[str]) -> None:
        """The broker is away, or a part of it."""
        source = self.simulation.sources[self._queue(queue)]
        source.is_disturbed = True
        for call in sorted(calls):
            source.break_(call, GONE)

    @rule(queue=pick)
    def mend(self, queue: int) -> None:
        """The broker is back."""
        self.simulation.sources[self._queue(queue)].mend()

    @precondition(lambda self: not self.simulation.is_held)
    @rule(seconds=st.sampled_from([0.05, 1.0, 2.5, 7.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.simulation.stepper.pass_time(seconds)

    @precondition(lambda self: self.may_fail and not self.simulation.is_held)
    @rule(seconds=st.sampled_from([1.0, 7.0, 40.0]))
    def freeze(self, seconds: float) -> None:
        """The worker's process is stopped, and goes on after a while."""
        for source in self.simulation.sources.values():
            source.is_disturbed = True
        self.simulation.stepper.jump(seconds)

    @precondition(lambda self: not self.simulation.is_held)
    @rule()
    def hold(self) -> None:
        """What happens from here on happens at the same moment."""
        self.simulation.is_held = True

    @precondition(lambda self: self.simulation.is_held)
    @rule(home_first=st.booleans(), is_slow=st.booleans())
    def release(self, home_first: bool, is_slow: bool) -> None:
        """That moment, and the next one, in which it is seen if a loop turns again."""
        self.simulation.is_held = False
        self.simulation.settle(home_first=home_first, is_slow=is_slow)
        self.simulation.stepper.pass_time(A_LOOK)

    @precondition(lambda self: not self.simulation.is_draining)
    @rule(
        grace=st.sampled_from([0.0, 5.0]), cancel_grace=st.sampled_from([0.5, 5.0]), flush=st.sampled_from([0.5, 3.0])
    )
    def drain(self, grace: float, cancel_grace: float, flush: float) -> None:
        """The worker begins to leave."""
        self.simulation.drain(grace=grace, cancel_grace=cancel_grace, flush=flush)

    @precondition(lambda self: self.simulation.is_draining)
    @rule()
    def hurry(self) -> None:
        """The worker is told to leave sooner."""
        self.simulation.hurry.set()
        self.simulation.settle()

    @invariant()
    def keeps_the_rules(self) -> None:
        """Nothing is settled twice, too soon, too late or wrongly; nothing is forgotten; nothing waits in vain."""
        self.steps_left -= 1
        simulation = self.simulation
        check_rules(simulation)
        check_credit(simulation)
        if not simulation.is_held:
            check_memory(simulation)
            check_progress(simulation)

    def teardown(self) -> None:
        """Let it leave; then each message has come to its one end."""
        if not hasattr(self, "simulation"):
            return
        simulation = self.simulation
        try:
            simulation.is_held = False
            simulation.leave()
            check_rules(simulation)
        finally:
            simulation.close()
        check_rules(simulation)
        simulation.check_ends()

    def _queue(self, index: int) -> str:
        return _one(sorted(self.simulation.sources), index)


def _one(choices: list[T], index: int) -> T:
    return choices[index % len(choices)]


WorkerLife.TestCase.settings = settings(
    max_examples=LIVES,
    stateful_step_count=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
TestWorkerLife = pytest.mark.timeout(60 + LIVES)(WorkerLife.TestCase)
