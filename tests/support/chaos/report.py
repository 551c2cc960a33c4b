"""Report: the figures of campaigns, one line of JSON each in a file, and their sum as docs/reference/chaos.json.

QBRIDGE_CHAOS_REPORT=FILE pytest tests/chaos
python -m tests.support.chaos.report FILE docs/reference/chaos.json
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.chaos.checker import Verdict
from tests.support.chaos.incidents import Incident

if TYPE_CHECKING:
    from tests.support.chaos.campaign import Campaign

__all__ = ["REPORT", "figures", "main", "record", "summed"]

#: The environment variable that names the file.
REPORT = "QBRIDGE_CHAOS_REPORT"

#: What must be 0 in every row.
WRONG = ("lost", "unexpected", "unexplained", "early", "wrongly_dead", "stuck")


def record(campaign: Campaign, verdict: Verdict, seed: int) -> None:
    """Print the figures of a campaign, and add them to the report if one is wanted."""
    line = {
        "backend": campaign.broker.backend,
        "family": campaign.family,
        "seed": seed,
        "messages": len(campaign.book.sendings),
        "runs": campaign.ledger.count["start"],
        "retries": verdict.retries,
        "faults": figures(campaign.incidents, verdict),
    }
    print(f"\n{line['backend']}, {line['family']}: {line['messages']} messages, {line['runs']} runs")
    for row in figures(campaign.incidents, verdict):
        print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    if REPORT in os.environ:
        with Path(os.environ[REPORT]).open("a") as file:
            file.write(json.dumps(line) + "\n")


def figures(incidents: Sequence[Incident], verdict: Verdict) -> list[dict[str, Any]]:
    """Return a row for each incident: what went wrong after it and before the next, what it repeated, how long it took.

    `recovery` are the seconds from the end of the cause until new tasks end, and all that it has repeated has started;
    `takeover` those from its beginning until the last run that it has repeated has started, None if there is none.
    """
    rows = []
    for number, incident in enumerate(incidents):
        row: dict[str, Any] = {"fault": incident.fault}
        until = incidents[number + 1].began if number + 1 < len(incidents) else float("inf")
        since = incident.began if number else float("-inf")
        for kind, findings in verdict.findings.items():
            is_last = number + 1 == len(incidents)
            row[kind] = sum(since <= found.at and (found.at < until or is_last) for found in findings)
        repeated = [repeat.at for repeat in verdict.repeats if repeat.incident is incident]
        row["repeated"] = len(repeated)
        over = incident.over_at or incident.began
        ends = [*repeated, *([incident.resumed_at] if incident.resumed_at is not None else [])]
        row["recovery"] = round(max(0.0, max(ends, default=over) - over), 3)
        row["takeover"] = round(max(repeated) - incident.began, 3) if repeated else None
        rows.append(row)
    return rows


def summed(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of campaigns: totals, and a row for each backend and fault."""
    rows: defaultdict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    campaigns = list(lines)
    for line in campaigns:
        for row in line["faults"]:
            rows[line["backend"], line["family"], row["fault"]].append(row)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "campaigns": len(campaigns),
        "messages": sum(line["messages"] for line in campaigns),
        "runs": sum(line["runs"] for line in campaigns),
        "injections": sum(len(line["faults"]) for line in campaigns),
        "rows": [_sum_of(*key, rows[key]) for key in sorted(rows, key=lambda key: (key[1], key[2], key[0]))],
    }


def _sum_of(backend: str, family: str, fault: str, injected: Sequence[dict[str, Any]]) -> dict[str, Any]:
    recoveries = [row["recovery"] for row in injected]
    takeovers = [row["takeover"] for row in injected if row["takeover"] is not None]
    return {
        "backend": backend,
        "family": family,
        "fault": fault,
        "injections": len(injected),
        **{kind: sum(row[kind] for row in injected) for kind in WRONG},
        "repeated": sum(row["repeated"] for row in injected),
        "recovery_median": round(statistics.median(recoveries), 2),
        "recovery_max": round(max(recoveries), 2),
        "takeover_max": round(max(takeovers), 2) if takeovers else None,
    }


def main(source: str, target: str) -> None:
    """Read the lines of one file, and write their sum to another."""
    lines = [json.loads(line) for line in Path(source).read_text().splitlines()]
    total = summed(lines)
    Path(target).write_text(json.dumps(total, indent=2) + "\n")
    print(f"{total['injections']} injections in {total['campaigns']} campaigns, noted in {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
