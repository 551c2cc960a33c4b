"""The report of campaigns: a row for each incident, and the sum of several campaigns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.chaos.checker import Finding, Repeat, Verdict
from tests.support.chaos.incidents import Incident
from tests.support.chaos.report import figures, main, summed

KILLED = Incident(fault="killed", began=10.0, over_at=10.5, resumed_at=11.0)
CUT = Incident(fault="cut", began=20.0, over_at=24.0, resumed_at=25.0)


def row(verdict: Verdict, fault: str) -> dict[str, object]:
    """Return the row of one of two incidents."""
    [found] = [row for row in figures([KILLED, CUT], verdict) if row["fault"] == fault]
    return found


def test_recovery_lasts_until_new_work_ends_and_all_that_was_cut_off_runs_again() -> None:
    """It counts from the end of the cause; the take-over counts from its beginning."""
    repeats = [Repeat("a", 12.5, KILLED), Repeat("b", 12.0, KILLED)]
    verdict = Verdict(repeats=repeats)

    assert (2, 2.0, 2.5) == tuple(row(verdict, "killed")[key] for key in ("repeated", "recovery", "takeover"))
    assert (0, 1.0, None) == tuple(row(verdict, "cut")[key] for key in ("repeated", "recovery", "takeover"))


@pytest.mark.parametrize(("at", "fault"), [(5.0, "killed"), (15.0, "killed"), (20.0, "cut"), (float("inf"), "cut")])
def test_what_went_wrong_is_counted_for_the_incident_before_it(at: float, fault: str) -> None:
    """Each finding is counted once; what has no time, and what comes before all incidents, is counted too."""
    verdict = Verdict(lost=[Finding("m", at, "lost")])

    assert 1 == row(verdict, fault)["lost"]
    assert 1 == sum(row["lost"] for row in figures([KILLED, CUT], verdict))


def test_campaigns_are_summed_by_fault_and_backend(tmp_path: Path) -> None:
    """Injections, findings and repeated runs are added up, and recoveries become a median and a longest one."""
    source, target = tmp_path / "lines", tmp_path / "chaos.json"
    lines = []
    for backend, shift in (("redis", 0.0), ("redis", 2.0), ("sqlite", 0.0)):
        verdict = Verdict(repeats=[Repeat("a", 12.5 + shift, KILLED)], lost=[Finding("m", 11.0, "lost")])
        faults = figures([KILLED], verdict)
        lines.append({"backend": backend, "family": "workers", "messages": 10, "runs": 11, "faults": faults})
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))

    main(str(source), str(target))

    noted = json.loads(target.read_text())
    assert (3, 3, 30, 33) == tuple(noted[key] for key in ("campaigns", "injections", "messages", "runs"))
    assert [("redis", 2, 2, 2, 3.0, 4.0, 4.5), ("sqlite", 1, 1, 1, 2.0, 2.0, 2.5)] == [
        tuple(
            each[key]
            for key in (
                *("backend", "injections", "lost", "repeated"),
                *("recovery_median", "recovery_max", "takeover_max"),
            )
        )
        for each in noted["rows"]
    ]


def test_no_campaign_is_no_row() -> None:
    """An empty report is the sum of nothing."""
    assert (0, []) == (summed([])["injections"], summed([])["rows"])
