"""What the soak has measured: series, whether they are flat, and the ledger of what was sent and what was run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from soak_tasks import END

__all__ = ["Series", "ledger_of"]

#: The share of the time that is left out: caches fill, pools grow.
WARM_UP = 0.1

#: By how much the median of the last third may be over that of the first: a share, or so many. The threads for plain
#: functions come one by one, as far as there are to be any; one that leaked with each fault would be far more.
TOLERANCES = {
    "rss": (0.10, 4.0),
    "fds": (0.0, 3.0),
    "threads": (0.0, 8.0),
    "keys": (0.0, 3.0),
    "memory": (0.25, 3.0),
    "queues": (0.0, 3.0),
    "connections": (0.0, 2.0),
    "channels": (0.0, 3.0),
}

#: Rows of a table at most.
MOST_ROWS = 10

UNITS = {"rss": "RSS MiB", "fds": "files", "memory": "used MiB"}


class Series:
    """Samples of one site in their order.

    Args:
        rows: Samples to begin with.
    """

    def __init__(self, rows: list[dict[str, float]] | None = None) -> None:
        self.rows = rows or []

    def add(self, at: float, read: dict[str, float]) -> None:
        """Add a sample, taken at these seconds."""
        self.rows.append({"at": round(at), **read, "behind": read["sent"] - read["ended"]})

    def growth(self) -> dict[str, dict[str, Any]]:
        """Return by series the medians of the first and the last third after the warm-up, and whether it is flat."""
        rows = self.rows[round(len(self.rows) * WARM_UP) :]
        third = max(1, len(rows) // 3)
        found: dict[str, dict[str, Any]] = {}
        for key, (share, step) in TOLERANCES.items():
            if not rows or key not in rows[0]:
                continue
            first = median(row[key] for row in rows[:third])
            last = median(row[key] for row in rows[-third:])
            found[key] = {"first": first, "last": last, "flat": last - first <= max(first * share, step)}
        return found

    def table(self) -> str:
        """Return a Markdown table of at most ten rows, spread over the time."""
        if not self.rows:
            return "(no samples)"
        keys = [key for key in self.rows[0] if key not in {"at", "ended"}]
        step = max(1, -(-len(self.rows) // MOST_ROWS))
        chosen = self.rows[::-1][::step][::-1]
        lines = [
            "| minute | " + " | ".join(UNITS.get(key, key) for key in keys) + " |",
            "|---:" * (len(keys) + 1) + "|",
        ]
        for row in chosen:
            lines.append(f"| {row['at'] / 60:.1f} | " + " | ".join(f"{row.get(key, 0):,.10g}" for key in keys) + " |")
        return "\n".join(lines)


def ledger_of(folder: Path) -> dict[str, Any]:
    """Compare what the broker has confirmed with what has run.

    Returns:
        `confirmed` and `ran` tasks; how many are `lost` (confirmed and never run), `unexpected` (run and never sent),
        `early` (before their time), ran `again`, and were `unconfirmed` and ran all the same.
    """
    attempted = max((int(line) for line in (folder / "attempted").read_text().split()), default=-1) + 1
    confirmed = bytearray(attempted)
    for line in (folder / "confirmed").read_text().splitlines():
        first, last = map(int, line.split())
        confirmed[first : last + 1] = b"\x01" * (last + 1 - first)
    ends = folder / "ends"
    written = ends.read_bytes() if ends.exists() else b""
    runs: Counter[int] = Counter()
    early = 0
    for number, _, is_early in END.iter_unpack(written[: len(written) // END.size * END.size]):
        runs[number] += 1
        early += is_early
    return {
        "confirmed": sum(confirmed),
        "ran": len(runs),
        "lost": sum(is_confirmed and number not in runs for number, is_confirmed in enumerate(confirmed)),
        "unexpected": sum(number >= attempted for number in runs),
        "early": early,
        "again": sum(count - 1 for count in runs.values()),
        "unconfirmed": sum(number < attempted and not confirmed[number] for number in runs),
    }
