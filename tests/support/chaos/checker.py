"""Checker: what the producers' and the handlers' books say of a campaign, as Jepsen's total-queue checker does.

A pure function of the books. What it finds is a fault of the queue, or of the campaign:

- *lost*: accepted by the broker, and neither run to its end nor a dead letter that was expected;
- *unexpected*: run, though nobody has tried to send it, or ended without a start;
- *unexplained*: run once more, though no handler had failed and no incident hit the run before or its settlement;
- *early*: started before the delay of its sending, or of its retry, was over;
- *wrongly dead*: a dead letter that should have been run;
- *stuck*: left on the broker at the end, or work that did not resume after an incident.

A message may be run once more for each run that failed, and for each run that an incident may have cut off from its
settlement: one that hit its process, or the broker, between its start and some seconds after its end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.chaos.incidents import Incident
from tests.support.chaos.sendings import Sending
from tests.support.run_ledger import Entry

__all__ = ["Books", "Finding", "Left", "Repeat", "Verdict", "check"]

#: Seconds after a handler's end in which its settlement reaches the broker, on a busy machine.
SETTLING = 1.0

#: Seconds that a delayed task may seem early: what the times of two processes' lines and a broker's milliseconds hide.
TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is on the broker when all workers have left."""

    ready: int = 0
    delayed: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """All that is known of a campaign.

    Attributes:
        sendings: What was sent, by message id.
        entries: What the handlers wrote, in their order.
        incidents: What was done to the system, in its order.
        dead: The reasons of the dead letters, by message id.
        left: What is on the broker at the end.
    """

    sendings: Mapping[str, Sending]
    entries: Sequence[Entry]
    incidents: Sequence[Incident] = ()
    dead: Mapping[str, str] = field(default_factory=dict)
    left: Left = Left()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be: which message, when (monotonic seconds), and what is wrong with it."""

    message_id: str
    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """A run that was made once more, when it started, and the incident that explains it."""

    message_id: str
    at: float
    incident: Incident


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What was found; the campaign is well if all but `repeats` and `retries` is empty."""

    lost: list[Finding] = field(default_factory=list)
    unexpected: list[Finding] = field(default_factory=list)
    unexplained: list[Finding] = field(default_factory=list)
    early: list[Finding] = field(default_factory=list)
    wrongly_dead: list[Finding] = field(default_factory=list)
    stuck: list[Finding] = field(default_factory=list)
    #: Runs that an incident explains.
    repeats: list[Repeat] = field(default_factory=list)
    #: How many runs were made once more because a handler had failed.
    retries: int = 0

    @property
    def findings(self) -> Mapping[str, Sequence[Finding]]:
        """What must not be, by kind."""
        return {
            "lost": self.lost,
            "unexpected": self.unexpected,
            "unexplained": self.unexplained,
            "early": self.early,
            "wrongly_dead": self.wrongly_dead,
            "stuck": self.stuck,
        }


@dataclass(slots=True)
class _Run:
    """One start of a handler and how it went on."""

    entry: Entry
    closing: Entry | None = None

    @property
    def failed_at(self) -> float:
        return self.closing.at if self.closing is not None and self.closing.kind == "fail" else math.inf


@dataclass(frozen=True, slots=True, eq=False)
class _Reason:
    """Why a message may be run once more from a moment on: one of its runs has failed, or was hit by an incident."""

    run: _Run
    at: float
    incident: Incident | None = None

    def explains(self, later: _Run) -> bool:
        """Return whether it may be the reason for another run."""
        own, other = self.run.entry, later.entry
        return own is not other and self.at <= other.at and (own.at <= other.at or own.attempt < other.attempt)


@dataclass(frozen=True, slots=True)
class _Patience:
    """Seconds after a run was closed in which its settlement reaches the broker, if it has ended, or if not."""

    settling: float
    retrying: float


def check(
    books: Books, *, settling: float = SETTLING, retrying: float = SETTLING, tolerance: float = TOLERANCE
) -> Verdict:
    """Return what the books say.

    Args:
        books: The campaign's.
        settling: Seconds after its end for which an incident may have hit a run's settlement.
        retrying: The same for a run that has failed, or was cancelled.
        tolerance: Seconds that a delayed task may start before its time.
    """
    verdict = Verdict()
    patience = _Patience(settling, retrying)
    by_message: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in books.entries:
        by_message[entry.message_id].append(entry)
    for message_id, entries in by_message.items():
        sending = books.sendings.get(message_id)
        if sending is None:
            verdict.unexpected.append(Finding(message_id, entries[0].at, "nobody has tried to send it"))
            continue
        runs = list(_runs(entries, verdict))
        _check_times(sending, runs, books.incidents, verdict, patience, tolerance=tolerance)
        _explain(message_id, runs, books.incidents, verdict, patience)
    for sending in books.sendings.values():
        _check_end(sending, by_message[sending.message_id], books.dead, verdict)
    for message_id in books.dead.keys() - books.sendings.keys():
        verdict.unexpected.append(Finding(message_id, math.inf, "a dead letter that nobody has tried to send"))
    _check_rest(books, verdict)
    return verdict


def _runs(entries: Sequence[Entry], verdict: Verdict) -> Iterator[_Run]:
    """Pair starts with what closed them; yield the runs in the order of their starts."""
    runs: list[_Run] = []
    running: defaultdict[tuple[int, int], list[_Run]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.at):
        of_process = running[entry.process, entry.attempt]
        if entry.kind == "start":
            runs.append(_Run(entry))
            of_process.append(runs[-1])
        elif of_process:
            of_process.pop(0).closing = entry
        else:
            verdict.unexpected.append(Finding(entry.message_id, entry.at, f"{entry.kind!r} without a start"))
    yield from runs


def _hits(incident: Incident, run: _Run, patience: _Patience) -> bool:
    """Return whether an incident may have cut a run off from its settlement."""
    if not incident.reaches_all and run.entry.process not in incident.processes:
        return False
    settled = math.inf
    if run.closing is not None:
        settled = run.closing.at + (patience.settling if run.closing.kind == "end" else patience.retrying)
    over = math.inf if incident.over_at is None else incident.over_at + incident.aftermath
    return incident.began <= settled and run.entry.at <= over


def _explain(
    message_id: str, runs: Sequence[_Run], incidents: Sequence[Incident], verdict: Verdict, patience: _Patience
) -> None:
    """Find a reason for each run but that of the first claim; a reason serves once."""
    reasons: list[_Reason] = []
    for run in runs:
        reasons.append(_Reason(run, run.failed_at))
        hit = next((incident for incident in incidents if _hits(incident, run, patience)), None)
        if hit is not None:
            reasons.append(_Reason(run, hit.began, hit))
    # Not the first that started: a worker that was frozen may start what it had claimed long after another one.
    first = min(runs, key=lambda run: (run.entry.attempt, run.entry.at), default=None)
    for run in runs:
        if run is first:
            continue
        possible = [reason for reason in reasons if reason.explains(run)]
        if not possible:
            what = f"attempt {run.entry.attempt}, in process {run.entry.process}, has no reason"
            verdict.unexplained.append(Finding(message_id, run.entry.at, what))
            continue
        # The run right before it is the likeliest reason; had it been hit as well, it would be run once more than that.
        reason = max(possible, key=lambda reason: (reason.run.entry.at, reason.incident is None))
        reasons.remove(reason)
        if reason.incident is None:
            verdict.retries += 1
        else:
            verdict.repeats.append(Repeat(message_id, run.entry.at, reason.incident))


def _check_times(
    sending: Sending,
    runs: Sequence[_Run],
    incidents: Sequence[Incident],
    verdict: Verdict,
    patience: _Patience,
    *,
    tolerance: float,
) -> None:
    """Compare starts with the delay of the sending and with those of retries."""
    due = sending.attempted_at + sending.delay
    for run in runs:
        if sending.delay and run.entry.at < due - tolerance:
            what = f"started {due - run.entry.at:.3f} s before its delay of {sending.delay} s was over"
            verdict.early.append(Finding(sending.message_id, run.entry.at, what))
    for number, run in enumerate(runs):
        if run.closing is None or run.closing.kind != "fail":
            continue
        following = next((later for later in runs[number + 1 :] if later.entry.at >= run.closing.at), None)
        if following is None or any(
            _hits(incident, earlier, patience) for earlier in runs[: number + 1] for incident in incidents
        ):
            continue  # a run whose retry never reached the broker is repeated at once
        due_again = run.closing.at + float(run.closing.detail or 0)
        if following.entry.at < due_again - tolerance:
            what = f"tried again {due_again - following.entry.at:.3f} s before the pause after its failure was over"
            verdict.early.append(Finding(sending.message_id, following.entry.at, what))


def _check_end(sending: Sending, entries: Sequence[Entry], dead: Mapping[str, str], verdict: Verdict) -> None:
    """Compare what became of a message with what may become of it."""
    message_id = sending.message_id
    last_seen = entries[-1].at if entries else sending.accepted_at or sending.attempted_at
    reason = dead.get(message_id)
    if reason is not None and reason not in sending.outcomes:
        what = f"a dead letter {reason!r}, expected was {' or '.join(sorted(sending.outcomes))}"
        verdict.wrongly_dead.append(Finding(message_id, last_seen, what))
    has_ended = any(entry.kind == "end" for entry in entries)
    is_as_expected = (has_ended and "end" in sending.outcomes) or reason is not None
    if sending.accepted_at is not None and not is_as_expected:
        seen = f"its last line is {entries[-1].kind!r}" if entries else "it was never started"
        verdict.lost.append(Finding(message_id, last_seen, f"accepted, and not at its end: {seen}"))


def _check_rest(books: Books, verdict: Verdict) -> None:
    """Look at what is left, and at incidents after which nothing went on."""
    for kind in ("ready", "delayed", "in_flight"):
        if count := getattr(books.left, kind):
            verdict.stuck.append(Finding("", math.inf, f"{count} messages are left on the broker: {kind}"))
    for incident in books.incidents:
        if incident.resumed_at is None:
            verdict.stuck.append(Finding("", incident.began, f"work did not resume after {incident.fault!r}"))
