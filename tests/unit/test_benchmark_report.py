"""The tables of the benchmark: what rounds become, who stands first, and that nothing is left out."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness.report import limits_table, merged, noted, page_tables, workload_table

RATE = {"key": "rate", "heading": "tasks/s", "more_is_better": True, "digits": 0}
SECONDS = {"key": "seconds", "heading": "seconds", "more_is_better": False, "digits": 2}


def variant(system: str, broker: str = "redis", guarantee: str = "at least once") -> dict[str, str]:
    """Return what is told of a variant."""
    return {"system": system, "version": "1.0", "broker": broker, "guarantee": guarantee, "settings": ""}


def run(key: str, number: int = 1, workload: str = "drain", **figures: float) -> dict[str, Any]:
    """Return one run that finished."""
    return {"workload": workload, "key": key, "round": number, "figures": figures}


def raw(*runs: dict[str, Any], limit_runs: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """Return raw results with these runs."""
    return {
        "date": "2026-11-28",
        "machine": "2 cores",
        "load": 0.24,
        "command": "python benchmarks/bench.py",
        "variants": {
            "qbridge": variant("qbridge"),
            "slow": variant("slow", guarantee="at most once"),
            "fast": variant("fast"),
            "qbridge-sqlite": variant("qbridge", "sqlite"),
        },
        "workloads": {
            "drain": {"title": "No-ops", "figures": [RATE]},
            "cold_start": {"title": "From the start", "figures": [SECONDS]},
        },
        "limits": {"bare": {"key": "bare", "broker": "redis", "title": "a bare loop", "beside": "drain"}},
        "runs": list(runs),
        "limit_runs": list(limit_runs),
    }


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of a table's rows."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_rounds_become_a_median_with_its_spread() -> None:
    """Three rounds are shown as their median, the least and the most in brackets."""
    told = noted(raw(run("qbridge", 1, rate=3_000.4), run("qbridge", 2, rate=1_000), run("qbridge", 3, rate=40_000)))

    [row] = rows_of(workload_table(told, "drain"))
    assert "3,000 (1,000 to 40,000)" == row[2]


def test_systems_stand_from_the_best_to_the_worst_of_each_broker() -> None:
    """The order is that of the leading figure, broker by broker, whatever ran first."""
    told = noted(
        raw(run("slow", rate=10), run("qbridge-sqlite", rate=5), run("fast", rate=300), run("qbridge", rate=200))
    )

    rows = rows_of(workload_table(told, "drain"))
    assert ["fast 1.0", "qbridge 1.0", "slow 1.0", "qbridge-sqlite 1.0"] == [row[1] for row in rows]
    assert ["Redis", "Redis", "Redis", "SQLite"] == [row[0] for row in rows]


def test_a_peer_shows_how_many_times_better_qbridge_is() -> None:
    """A ratio under one is shown too; qbridge itself has none, and each row tells its guarantee."""
    told = noted(raw(run("slow", rate=10), run("fast", rate=400), run("qbridge", rate=200)))

    rows = {row[1]: row for row in rows_of(workload_table(told, "drain"))}
    assert ("20 times", "at most once") == (rows["slow 1.0"][3], rows["slow 1.0"][4])
    assert "0.50 times" == rows["fast 1.0"][3]
    assert "" == rows["qbridge 1.0"][3]


def test_less_is_better_where_a_workload_says_so() -> None:
    """Of two starts the quicker one stands first, and its ratio is over one."""
    told = noted(
        raw(run("slow", workload="cold_start", seconds=0.9), run("qbridge", workload="cold_start", seconds=0.3))
    )

    first, second = rows_of(workload_table(told, "cold_start"))
    assert ("qbridge 1.0", "0.30") == (first[1], first[2])
    assert "3.00 times" == second[3]


def test_a_run_that_did_not_finish_is_shown() -> None:
    """A system none of whose runs finished stands last, with the reason."""
    failure = {"workload": "drain", "key": "slow", "round": 1, "failure": "3 of 9 tasks had run", "log": ["a", "b"]}
    told = noted(raw(failure, run("qbridge", rate=200)))

    rows = rows_of(workload_table(told, "drain"))
    assert ["qbridge 1.0", "slow 1.0"] == [row[1] for row in rows]
    assert "did not finish" == rows[1][2]
    assert "at most once; 1 of 1 runs did not finish: 3 of 9 tasks had run" == rows[1][4]


def test_a_failed_round_is_told_beside_those_that_finished() -> None:
    """The figures of the other rounds count, and the failure is not hidden by them."""
    failure = {"workload": "drain", "key": "fast", "round": 2, "failure": "a worker ended"}
    told = noted(raw(run("fast", 1, rate=300), failure))

    [row] = rows_of(workload_table(told, "drain"))
    assert "300" == row[2]
    assert "1 of 2 runs did not finish: a worker ended" in row[4]


def test_tasks_that_ran_again_are_told() -> None:
    """The most repetitions of any round stand beside the guarantee."""
    told = noted(raw(run("fast", 1, rate=300, repeated=0), run("fast", 2, rate=300, repeated=12)))

    [row] = rows_of(workload_table(told, "drain"))
    assert "at least once; 12 ran again" == row[4]


def test_a_limit_shows_what_part_of_it_qbridge_reaches() -> None:
    """The share is that of the workload beside which the limit stands, on the same broker."""
    limit_runs = ({"key": "bare", "round": 1, "figures": {"rate": 800.0}},)
    told = noted(raw(run("qbridge", rate=200), run("qbridge-sqlite", rate=5), limit_runs=limit_runs))

    assert [["Redis", "a bare loop", "800", "25%"]] == rows_of(limits_table(told))


def test_what_did_not_run_makes_no_table() -> None:
    """A page has no headings of workloads that nobody took part in."""
    told = noted(raw(run("qbridge", rate=200)))

    page = page_tables(told)
    assert "### No-ops" in page
    assert "From the start" not in page
    assert "What brokers and clients can do" not in page
    assert page.startswith("On 2026-11-28, 2 cores. Processes that wanted a processor before it began: 0.2. ")
    assert "Command: `python benchmarks/bench.py`." in page


def test_results_of_several_calls_are_shown_together() -> None:
    """Rounds of one variant from two files count as rounds of one."""
    told = noted(merged([raw(run("qbridge", rate=100)), raw(run("qbridge", rate=300))]))

    [row] = rows_of(workload_table(told, "drain"))
    assert "200 (100 to 300)" == row[2]


def test_all_calls_and_the_busiest_beginning_are_told() -> None:
    """Nobody is told of one command, or of a calm machine, where there were others."""
    told = merged([raw(), raw() | {"command": "python benchmarks/bench.py --all", "load": 3.5}, raw()])

    assert "python benchmarks/bench.py`, `python benchmarks/bench.py --all" == told["command"]
    assert 3.5 == told["load"]


def test_the_leading_variant_of_qbridge_is_compared() -> None:
    """Where several were measured it is the one with the shortest name, in both tables, whichever ran first."""
    results = raw(
        run("qbridge-other", rate=10),
        run("qbridge", rate=100),
        run("slow", rate=50),
        limit_runs=({"key": "bare", "round": 1, "figures": {"rate": 400.0}},),
    )
    results["variants"]["qbridge-other"] = variant("qbridge")
    told = noted(results)

    shares = {row[1]: row[3] for row in rows_of(workload_table(told, "drain"))}
    [limit] = rows_of(limits_table(told))
    assert {"qbridge 1.0": "", "slow 1.0": "2.00 times", "qbridge-other 1.0": ""} == shares
    assert "25%" == limit[3]


def test_results_of_different_machines_are_not_mixed() -> None:
    """Figures of two machines don't stand in one table."""
    with pytest.raises(ValueError, match="different machines"):
        merged([raw(), raw() | {"machine": "64 cores"}])


def test_calls_that_measured_different_brokers_are_of_one_machine() -> None:
    """Each call tells of the brokers that it had; two versions of one don't go together."""
    told = merged([raw() | {"machine": "2 cores, Redis 7"}, raw() | {"machine": "2 cores, SQLite 3, Redis 7"}])

    assert "2 cores, Redis 7, SQLite 3" == told["machine"]
    with pytest.raises(ValueError, match="different machines"):
        merged([raw() | {"machine": "2 cores, Redis 7"}, raw() | {"machine": "2 cores, Redis 8"}])


def test_results_of_different_versions_are_not_mixed() -> None:
    """Rounds of two versions of a system are not rounds of one."""
    other = raw()
    other["variants"]["fast"] = variant("fast") | {"version": "2.0"}

    with pytest.raises(ValueError, match="different kinds of fast"):
        merged([raw(), other])
