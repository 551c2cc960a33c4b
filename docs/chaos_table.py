"""The table of faults in docs/concepts/reliability.md, from what `make chaos` noted in docs/reference/chaos.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model_tables import table  # beside this file

__all__ = ["PAGE", "page_with_table"]

ROOT = Path(__file__).resolve().parents[1]

#: The page that the table stands in, between two comments.
PAGE = ROOT / "docs" / "concepts" / "reliability.md"

#: What `make chaos` noted.
NOTED = ROOT / "docs" / "reference" / "chaos.json"

BEGIN = "<!-- Made from docs/reference/chaos.json by docs/generate.py; `make chaos` writes it anew. -->"
END = "<!-- End of what docs/generate.py made. -->"

#: What must not be: the key of a row and the column's heading.
WRONG = {
    "lost": "lost",
    "unexpected": "unexpected",
    "unexplained": "unexplained",
    "early": "early",
    "wrongly_dead": "wrongly dead",
    "stuck": "stuck",
}


def page_with_table() -> str:
    """Return the page as it should be.

    Raises:
        ValueError: One of the two comments is missing.
    """
    before, began, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not began or not ended:
        raise ValueError(f"{PAGE} must have the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{_text(json.loads(NOTED.read_text('utf-8')))}\n\n{END}{after}"


def _text(noted: dict[str, Any]) -> str:
    backends = sorted({row["backend"] for row in noted["rows"]})
    told = (
        f"On {noted['date']}: {noted['injections']:,} injections in {noted['campaigns']} campaigns on "
        f"{', '.join(f'`{name}`' for name in backends)}; {noted['messages']:,} messages, {noted['runs']:,} runs. "
        + ", ".join(f"{sum(row[key] for row in noted['rows'])} {heading}" for key, heading in WRONG.items())
        + "."
    )
    headings = ["fault", "backend", "injected", "run again", *WRONG.values(), "recovery: median, longest"]
    return f"{told}\n\n{table(headings, [_row(row) for row in noted['rows']])}"


def _row(row: dict[str, Any]) -> list[str]:
    return [
        row["fault"],
        f"`{row['backend']}`",
        str(row["injections"]),
        str(row["repeated"]),
        *(str(row[key]) for key in WRONG),
        f"{row['recovery_median']:.1f} s, {row['recovery_max']:.1f} s",
    ]
