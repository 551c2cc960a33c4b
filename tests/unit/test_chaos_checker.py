"""The checker of campaigns finds each thing that must not be, and lets pass what a fault explains."""

from __future__ import annotations

import pytest

from tests.support.chaos.checker import Books, Left, Verdict, check
from tests.support.chaos.incidents import Incident
from tests.support.chaos.sendings import Sending
from tests.support.run_ledger import Entry

#: Processes of two workers.
FIRST, SECOND = 11, 22


def entry(kind: str, at: float, *, process: int = FIRST, attempt: int = 1, detail: str = "") -> Entry:
    """Return a line about the message "m"."""
    return Entry(kind, "m", process, attempt, at, detail)


def sent(*, delay: float = 0.0, outcome: str = "end", accepted: bool = True) -> Sending:
    """Return a message "m" that was sent at 1 s."""
    return Sending("m", 1.0, delay, frozenset({outcome}), 1.1 if accepted else None)


def killed(*, at: float = 2.5, process: int = FIRST) -> Incident:
    """Return the kill of a worker after which work went on."""
    return Incident(fault="killed", began=at, over_at=at, processes={process}, resumed_at=at)


def broker_lost(began: float, over_at: float) -> Incident:
    """Return an outage of the broker after which work went on."""
    return Incident(fault="broker lost", began=began, over_at=over_at, reaches_all=True, resumed_at=over_at)


def checked(
    *entries: Entry,
    sending: Sending | None = None,
    incidents: tuple[Incident, ...] = (),
    dead: dict[str, str] | None = None,
    left: Left | None = None,
    retrying: float = 1.0,
) -> Verdict:
    """Return the verdict on one message "m"."""
    sending = sending or sent()
    books = Books(
        sendings={sending.message_id: sending},
        entries=entries,
        incidents=incidents,
        dead=dead or {},
        left=left or Left(),
    )
    return check(books, retrying=retrying)


def found(verdict: Verdict) -> dict[str, int]:
    """Return how often each kind of thing was found that must not be."""
    return {kind: len(findings) for kind, findings in verdict.findings.items() if findings}


RUN = (entry("start", 2), entry("end", 3))
RUN_AGAIN = (entry("start", 5, process=SECOND, attempt=2), entry("end", 6, process=SECOND, attempt=2))


def test_a_message_run_once_is_well() -> None:
    """Nothing is found in the books of a message that was accepted, started and ended."""
    assert {} == found(checked(*RUN))


@pytest.mark.parametrize("entries", [(), (entry("start", 2),), (entry("start", 2), entry("fail", 3, detail="9"))])
def test_an_accepted_message_without_an_end_is_lost(entries: tuple[Entry, ...]) -> None:
    """Be it never started, never ended, or never tried again: what was accepted must come to its end."""
    assert {"lost": 1} == found(checked(*entries))


def test_a_message_that_was_never_accepted_may_vanish_or_be_run() -> None:
    """Whoever was not told that a message is accepted knows nothing of it."""
    assert {} == found(checked(sending=sent(accepted=False)))
    assert {} == found(checked(*RUN, sending=sent(accepted=False)))


def test_a_run_that_nobody_sent_is_unexpected() -> None:
    """A handler that runs for an id which no producer has tried to send is found."""
    assert {"unexpected": 1} == found(check(Books(sendings={}, entries=RUN)))


def test_an_end_without_a_start_is_unexpected() -> None:
    """A line that closes a run that was never opened is found."""
    assert {"unexpected": 1} == found(checked(*RUN, entry("end", 4)))


def test_a_second_run_without_a_reason_is_unexplained() -> None:
    """A message that is run twice while nothing has happened is found."""
    assert {"unexplained": 1} == found(checked(*RUN, *RUN_AGAIN))


def test_a_run_is_explained_by_the_kill_of_its_process() -> None:
    """A process killed between the start and the end of a run lets it be made once more."""
    verdict = checked(entry("start", 2), *RUN_AGAIN, incidents=(killed(at=2.5),))

    assert {} == found(verdict)
    assert [("m", 5.0)] == [(repeat.message_id, repeat.at) for repeat in verdict.repeats]


def test_a_kill_right_after_the_end_may_have_hit_the_settlement() -> None:
    """An end is settled a moment later; a kill long after that explains nothing."""
    assert {} == found(checked(*RUN, *RUN_AGAIN, incidents=(killed(at=3.5),)))
    assert {"unexplained": 1} == found(checked(*RUN, *RUN_AGAIN, incidents=(killed(at=4.9),)))


def test_a_failed_run_may_be_in_its_workers_hands_for_longer() -> None:
    """A broker on which a retry is a copy may keep the original for a while: a kill then brings it back as well."""
    failed = (entry("start", 2), entry("fail", 3, detail="1"), *RUN_AGAIN)
    original = (entry("start", 5.1, process=SECOND, attempt=3), entry("end", 6, process=SECOND, attempt=3))
    incidents = (killed(at=4.5),)

    assert {} == found(checked(*failed, *original, incidents=incidents, retrying=2.0))
    assert {"unexplained": 1} == found(checked(*failed, *original, incidents=incidents))


def test_the_kill_of_another_process_explains_nothing() -> None:
    """Only the runs of the process that was hit may be repeated."""
    assert {"unexplained": 1} == found(checked(*RUN, *RUN_AGAIN, incidents=(killed(process=SECOND),)))


def test_a_kill_before_the_run_explains_nothing() -> None:
    """What was over when a run started can't have hit it."""
    assert {"unexplained": 1} == found(checked(*RUN, *RUN_AGAIN, incidents=(killed(at=1.5),)))


def test_a_kill_after_the_second_start_explains_nothing() -> None:
    """A reason comes before what it explains."""
    runs = (entry("start", 2), entry("start", 5, process=SECOND, attempt=2), entry("end", 6, process=SECOND, attempt=2))

    assert {"unexplained": 1} == found(checked(*runs, incidents=(killed(at=5.5),)))


def test_a_kill_explains_one_more_run_and_no_two() -> None:
    """One reason serves once: a third run needs another."""
    third = (entry("start", 8, process=SECOND, attempt=3), entry("end", 9, process=SECOND, attempt=3))

    assert {"unexplained": 1} == found(checked(entry("start", 2), *RUN_AGAIN, *third, incidents=(killed(at=2.5),)))


def test_an_outage_of_the_broker_explains_runs_of_all_processes() -> None:
    """A run that overlaps an outage, or ended right before it, may be made once more by anybody."""
    assert {} == found(checked(*RUN, *RUN_AGAIN, incidents=(broker_lost(2.5, 4.0),)))
    assert {} == found(checked(*RUN, *RUN_AGAIN, incidents=(broker_lost(3.5, 4.0),)))
    assert {"unexplained": 1} == found(checked(*RUN, *RUN_AGAIN, incidents=(broker_lost(1.2, 1.8),)))


def test_the_aftermath_of_an_incident_explains_runs_that_start_in_it() -> None:
    """A worker that was frozen may start what it had claimed before, under a lease that is almost over."""
    frozen = killed(at=1.5)
    frozen.aftermath = 1.0

    assert {} == found(checked(*RUN, *RUN_AGAIN, incidents=(frozen,)))


def test_what_a_frozen_worker_starts_late_is_the_run_that_was_hit() -> None:
    """Another worker starts the second claim before a worker that was frozen starts the first one."""
    second = (entry("start", 3, process=SECOND, attempt=2), entry("end", 4, process=SECOND, attempt=2))
    first = (entry("start", 3.5), entry("cancel", 3.6))
    frozen = Incident(fault="frozen", began=1.5, over_at=3.4, processes={FIRST}, aftermath=1.0, resumed_at=3.5)

    assert {} == found(checked(*second, *first, incidents=(frozen,)))
    assert {"unexplained": 1} == found(checked(*second, *first))


def test_a_failure_explains_one_more_run() -> None:
    """A handler's failure lets its message be run once more, and a second time no more."""
    failed = (entry("start", 2), entry("fail", 3, detail="1"))
    verdict = checked(*failed, *RUN_AGAIN)
    third = (entry("start", 8, attempt=3), entry("end", 9, attempt=3))

    assert {} == found(verdict)
    assert (1, []) == (verdict.retries, verdict.repeats)
    assert {"unexplained": 1} == found(checked(*failed, *RUN_AGAIN, *third))


def test_a_delayed_message_that_starts_before_its_time_is_early() -> None:
    """The delay counts from before the attempt to send it."""
    assert {"early": 1} == found(checked(*RUN, sending=sent(delay=1.5)))
    assert {} == found(checked(*RUN, sending=sent(delay=1.0)))


def test_a_retry_before_its_pause_is_over_is_early() -> None:
    """The pause counts from right before the failure."""
    assert {"early": 1} == found(checked(entry("start", 2), entry("fail", 3, detail="2.5"), *RUN_AGAIN))
    assert {} == found(checked(entry("start", 2), entry("fail", 3, detail="2.0"), *RUN_AGAIN))


def test_a_retry_that_a_kill_has_cut_off_may_come_before_its_pause() -> None:
    """The broker has never heard of the pause: the message comes back as that of a dead worker."""
    failed = (entry("start", 2), entry("fail", 3, detail="9"))

    assert {} == found(checked(*failed, *RUN_AGAIN, incidents=(killed(at=3.1),)))


def test_a_dead_letter_that_should_have_been_run_is_found() -> None:
    """An innocent among the dead letters is found, be it run to its end or not."""
    assert {"wrongly_dead": 1} == found(checked(*RUN, dead={"m": "crashed"}))
    assert {"wrongly_dead": 1} == found(checked(dead={"m": "crashed"}))


def test_an_expected_dead_letter_is_an_end() -> None:
    """A message that is meant to die is lost if it doesn't, and wrongly dead for another reason."""
    assert {} == found(checked(sending=sent(outcome="crashed"), dead={"m": "crashed"}))
    assert {"lost": 1} == found(checked(sending=sent(outcome="crashed")))
    assert {"wrongly_dead": 1} == found(checked(sending=sent(outcome="crashed"), dead={"m": "invalid"}))


@pytest.mark.parametrize("left", [Left(ready=1), Left(delayed=1), Left(in_flight=1)])
def test_what_is_left_on_the_broker_is_stuck(left: Left) -> None:
    """Ready, delayed or in flight: at the end there must be nothing."""
    assert {"stuck": 1} == found(checked(*RUN, left=left))


def test_work_that_does_not_resume_is_stuck() -> None:
    """An incident after which no new task ended in time is found."""
    hanging = Incident(fault="broker lost", began=4.0, over_at=5.0)

    verdict = checked(*RUN, incidents=(hanging,))

    assert {"stuck": 1} == found(verdict)
    assert "broker lost" in verdict.stuck[0].what


def test_a_run_that_never_closes_is_hit_by_what_comes_later() -> None:
    """A process killed a while after the start of a run that it never closed explains the next one."""
    assert {} == found(checked(entry("start", 2), *RUN_AGAIN, incidents=(killed(at=4.5),)))
