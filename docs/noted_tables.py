"""The tables in docs/concepts: what `make chaos`, `make mutations`, `make bench` and others noted in docs/reference."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_tables import table  # beside this file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.report import page_tables

__all__ = ["PAGES", "page_with_tables"]

ROOT = Path(__file__).resolve().parents[1]

BEGIN = "<!-- Made from docs/reference/{file} by docs/generate.py; `make {target}` writes it anew. -->"
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


def page_with_tables(page: Path) -> str:
    """Return a page as it should be.

    Raises:
        ValueError: One of the comments is missing.
    """
    text = page.read_text("utf-8")
    for target, (file, write) in PAGES[page].items():
        begin = BEGIN.format(file=file, target=target)
        before, began, rest = text.partition(begin)
        _, ended, after = rest.partition(END)
        if not began or not ended:
            raise ValueError(f"{page} must have the lines {begin!r} and {END!r}")
        noted = json.loads((ROOT / "docs" / "reference" / file).read_text("utf-8"))
        text = f"{before}{begin}\n\n{write(noted)}\n\n{END}{after}"
    return text


def _faults(noted: dict[str, Any]) -> str:
    backends = sorted({row["backend"] for row in noted["rows"]})
    told = (
        f"On {noted['date']}: {noted['injections']:,} injections in {noted['campaigns']} campaigns on "
        f"{', '.join(f'`{name}`' for name in backends)}; {noted['messages']:,} messages, {noted['runs']:,} runs. "
        + ", ".join(f"{sum(row[key] for row in noted['rows'])} {heading}" for key, heading in WRONG.items())
        + "."
    )
    headings = ["fault", "backend", "injected", "run again", *WRONG.values(), "recovery: median, longest"]
    return f"{told}\n\n{table(headings, [_fault(row) for row in noted['rows']])}"


def _fault(row: dict[str, Any]) -> list[str]:
    return [
        row["fault"],
        f"`{row['backend']}`",
        str(row["injections"]),
        str(row["repeated"]),
        *(str(row[key]) for key in WRONG),
        f"{row['recovery_median']:.1f} s, {row['recovery_max']:.1f} s",
    ]


def _mutations(noted: list[dict[str, Any]]) -> str:
    told = f"On {noted[0]['date']} {len(noted)} mutations were tried, and each made its test fail."
    rows = [[row["promise"], row["mutation"], f"`{row['file']}`", f"`{row['failed']}`"] for row in noted]
    return f"{told}\n\n{table(['promise', 'what breaks it', 'where', 'a test that fails then'], rows)}"


def _free_threading(noted: dict[str, Any]) -> str:
    told = (
        f"On {noted['date']}, commit {noted['commit']}, {noted['cores']} cores of {noted['processor']}, pydantic "
        f"{' and '.join(noted['pydantic'])}; medians of {noted['rounds']} interleaved rounds, with the least and the "
        "most."
    )
    rows = []
    for row in noted["rows"]:
        one, two = row["threads_1"], row["threads_2"]
        cpu = (f"{case['main_us']:.0f} + {case['loops_us']:.0f}" for case in (one, two))
        rates = (f"{case['median']:,} ({case['lowest']:,} to {case['highest']:,})" for case in (one, two))
        lock = "with the lock" if row["gil"] else "**without the lock**"
        rows.append([f"{row['python']} {lock}", row["handler"], *rates, f"{row['gain']:.2f} times", *cpu])
    headings = ["CPython", "handler", "1 loop thread, tasks/s", "2 loop threads, tasks/s", "gain"]
    headings += [f"processor time per task with {count}: main + loops, µs" for count in (1, 2)]
    return f"{told}\n\n{table(headings, rows)}"


#: The pages that have tables, each between two comments. By the target of the Makefile that notes them: the file in
#: docs/reference, and what writes a table of what is in it.
PAGES: dict[Path, dict[str, tuple[str, Callable[[Any], str]]]] = {
    ROOT / "docs" / "concepts" / "reliability.md": {
        "chaos": ("chaos.json", _faults),
        "mutations": ("mutations.json", _mutations),
    },
    ROOT / "docs" / "concepts" / "performance.md": {
        "bench": ("benchmarks.json", page_tables),
        "free-threading": ("free-threading.json", _free_threading),
    },
}
