"""From raw runs to what is shown: medians with their spread, and the tables of them. No clock, no I/O.

Raw results are a mapping that JSON can hold:

    date, machine, command     text
    load        how many processes wanted a processor when it began, the mean of a minute
    variants    by key: system, version, broker, guarantee, settings, absent (reasons by workload)
    workloads   by name: title, figures (each: key, heading, more_is_better, digits)
    limits      by key: broker, title
    runs        each: workload, key, round, and either figures (by key) or failure, log
    limit_runs  each: key, round, and either rate or failure, log

Noted results are the same with `results` in place of the runs: each a workload, a key, figures by key as
[median, least, most], how many rounds finished and how many did not, the repeated runs, and a failure if there was one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.harness.statistics import ratio, summary

__all__ = ["limits_table", "merged", "noted", "page_tables", "workload_table"]

OWN = "qbridge"

#: Brokers whose versions stand beside the machine.
_BROKERS_BY_NAME = ("Redis", "RabbitMQ", "SQLite")
BROKERS = {"redis": "Redis", "rabbitmq": "RabbitMQ", "sqlite": "SQLite", "memory": "memory"}


def merged(raws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return several raw results as one, with all their commands; the first one tells the date and the machine.

    Raises:
        ValueError: Two of them were made on different machines, or with different versions of a system.
    """
    first = dict(raws[0])
    for other in raws[1:]:
        first["machine"] = _one_machine(first["machine"], other["machine"])
        for name in ("variants", "workloads", "limits"):
            for key, told in other[name].items():
                if first[name].get(key, told) != told:
                    raise ValueError(f"results of different kinds of {key}")
            first[name] = first[name] | other[name]
        for name in ("runs", "limit_runs"):
            first[name] = [*first[name], *other[name]]
    first["command"] = "`, `".join(dict.fromkeys(raw["command"] for raw in raws))
    first["load"] = max(raw["load"] for raw in raws)
    return first


def _one_machine(first: str, other: str) -> str:
    """Return what two calls say of their machine; each names only the brokers that it measured."""
    parts = first.split(", ")
    for part in other.split(", "):
        name = part.partition(" ")[0]
        is_told = any(known.partition(" ")[0] == name for known in parts)
        if part not in parts and (is_told or name not in _BROKERS_BY_NAME):
            raise ValueError(f"results of different machines: {first!r} and {other!r}")
        if part not in parts:
            parts.append(part)
    return ", ".join(parts)


def noted(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of raw results: a median with its spread for each figure."""
    results = []
    for workload, told in raw["workloads"].items():
        for key in raw["variants"]:
            runs = [run for run in raw["runs"] if (run["workload"], run["key"]) == (workload, key)]
            if runs:
                names = [figure["key"] for figure in told["figures"]]
                results.append({"workload": workload, "key": key} | _condensed(runs, names))
    limit_results = []
    for key in raw["limits"]:
        runs = [run for run in raw["limit_runs"] if run["key"] == key]
        if runs:
            limit_results.append({"key": key} | _condensed(runs, ["rate"]))
    kept = {name: raw[name] for name in ("date", "machine", "load", "command", "variants", "workloads", "limits")}
    return kept | {"results": results, "limit_results": limit_results}


def _condensed(runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    finished = [run["figures"] for run in runs if "figures" in run]
    failures = [run for run in runs if "failure" in run]
    found: dict[str, Any] = {"finished": len(finished), "failed": len(failures), "figures": {}}
    if finished:
        for name in names:
            told = summary([figures[name] for figures in finished])
            found["figures"][name] = [_rounded(value) for value in (told.median, told.least, told.most)]
        found["repeated"] = max(figures.get("repeated", 0) for figures in finished)
    if failures:
        found["failure"] = failures[-1]["failure"]
        found["log"] = failures[-1].get("log", [])[-3:]
    return found


def _rounded(value: float) -> float:
    """Return a figure with four digits that say something, so that the file stays readable."""
    return float(f"{value:.4g}")


def page_tables(told: Mapping[str, Any], *, heading: str = "###") -> str:
    """Return all tables of noted results, each under a heading of its workload, the limits last."""
    parts = [
        f"On {told['date']}, {told['machine']}. Processes that wanted a processor before it began: {told['load']:.1f}. "
        f"Command: `{told['command']}`."
    ]
    for name, workload in told["workloads"].items():
        if text := workload_table(told, name):
            parts += [f"{heading} {workload['title']}", text]
    if text := limits_table(told):
        parts += [f"{heading} What brokers and clients can do at all", text]
    return "\n\n".join(parts)


def workload_table(told: Mapping[str, Any], name: str) -> str:
    """Return the table of a workload: for each broker the systems from the best to the worst; empty if none ran."""
    figures = told["workloads"][name]["figures"]
    leading = figures[0]
    rows = []
    for broker, shown in BROKERS.items():
        results = [
            result
            for result in told["results"]
            if result["workload"] == name and told["variants"][result["key"]]["broker"] == broker
        ]
        own = _own(told, results)
        for result in sorted(results, key=lambda result: _rank(result, leading)):
            variant = told["variants"][result["key"]]
            times = ""
            if own and result["figures"] and variant["system"] != OWN:
                times = _times(own[0], result, leading)
            rows.append(
                [
                    shown,
                    f"{result['key']} {variant['version']}".rstrip(),
                    *(_shown(result, figure) for figure in figures),
                    times,
                    _remarks(variant["guarantee"], result),
                ]
            )
    if not rows:
        return ""
    table = _table(["broker", "system", *(figure["heading"] for figure in figures), "qbridge is", "guarantee"], rows)
    absent = [f"{key} {reasons[name]}" for key, reasons in _absences(told) if name in reasons]
    return f"{table}\n\nNot here: {'; '.join(absent)}." if absent else table


def _own(told: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return qbridge's own results, those of the variants with the shortest names first: these are compared."""
    own = [result for result in results if told["variants"][result["key"]]["system"] == OWN and result["figures"]]
    return sorted(own, key=lambda result: len(result["key"]))


def _absences(told: Mapping[str, Any]) -> list[tuple[str, Mapping[str, str]]]:
    return [(key, variant.get("absent", {})) for key, variant in told["variants"].items()]


def limits_table(told: Mapping[str, Any]) -> str:
    """Return the table of the limits, with what part of each qbridge reaches; empty if none ran."""
    own = {
        (result["workload"], told["variants"][result["key"]]["broker"]): result["figures"]["rate"][0]
        for result in reversed(_own(told, told["results"]))
        if "rate" in result["figures"]
    }
    figure = {"key": "rate", "digits": 0}
    rows = []
    for result in told["limit_results"]:
        limit = told["limits"][result["key"]]
        place = (limit["beside"], limit["broker"])
        share = f"{own[place] / result['figures']['rate'][0]:.0%}" if place in own and result["figures"] else ""
        rows.append([BROKERS[limit["broker"]], _remarks(limit["title"], result), _shown(result, figure), share])
    return _table(["broker", "what", "tasks/s", "qbridge reaches"], rows) if rows else ""


def _rank(result: Mapping[str, Any], figure: Mapping[str, Any]) -> tuple[bool, float]:
    if not result["figures"]:
        return (True, 0.0)
    value = result["figures"][figure["key"]][0]
    return (False, -value if figure["more_is_better"] else value)


def _times(own: Mapping[str, Any], other: Mapping[str, Any], figure: Mapping[str, Any]) -> str:
    key = figure["key"]
    found = ratio(own["figures"][key][0], other["figures"][key][0], more_is_better=figure["more_is_better"])
    return f"{found:.2f} times" if found < 10 else f"{found:.0f} times"


def _shown(result: Mapping[str, Any], figure: Mapping[str, Any]) -> str:
    if figure["key"] not in result["figures"]:
        return "did not finish"
    median, least, most = (f"{value:,.{figure['digits']}f}" for value in result["figures"][figure["key"]])
    return median if result["finished"] == 1 else f"{median} ({least} to {most})"


def _remarks(text: str, result: Mapping[str, Any]) -> str:
    remarks = [text]
    if result.get("repeated"):
        remarks.append(f"{result['repeated']:,.0f} ran again")
    if result["failed"]:
        rounds = result["failed"] + result["finished"]
        remarks.append(f"{result['failed']} of {rounds} runs did not finish: {result['failure']}")
    return "; ".join(remarks)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    drawn = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {line} |".replace("|  |", "| |") for line in drawn)
