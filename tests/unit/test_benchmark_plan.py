"""What a call of the benchmark runs: the fastest peers or all of them, in rounds that interleave."""

from __future__ import annotations

import pytest

from benchmarks.harness.plan import FASTEST, Plan, known_systems
from benchmarks.harness.system import EVERY_WORKLOAD, Command, System, Variant
from benchmarks.harness.workloads import WORKLOADS


def system(name: str, *brokers: str, workloads: frozenset[str] = EVERY_WORKLOAD) -> System:
    """Return a system with a variant for each of these brokers."""
    return System(
        name,
        name,
        (f"{name}[extra]==1.2",),
        tuple(
            Variant(f"{name}-{broker}", broker, "at least once", "", lambda _: Command(()), workloads)
            for broker in brokers
        ),
    )


KNOWN = [system("qbridge", "redis", "sqlite"), system("a", "redis"), system("b", "redis", "sqlite")]


def keys_of(plan: Plan) -> list[str]:
    """Return the keys of what takes part."""
    return [variant.key for _, variant in plan.variants]


def test_all_means_every_system_and_workload() -> None:
    """The whole benchmark leaves out nobody, and has three rounds."""
    plan = Plan.made(KNOWN, extent="all")

    assert ["qbridge-redis", "a-redis", "b-redis", "qbridge-sqlite", "b-sqlite"] == keys_of(plan)
    assert [(name, 3) for name in WORKLOADS] == [(workload.name, rounds) for workload, rounds in plan.workloads]


def test_qbridge_takes_part_beside_what_is_named() -> None:
    """A system is named as such, or by one of its variants."""
    assert ["qbridge-redis", "b-redis", "qbridge-sqlite", "b-sqlite"] == keys_of(Plan.made(KNOWN, systems=["b"]))
    assert ["qbridge-redis", "qbridge-sqlite", "b-sqlite"] == keys_of(Plan.made(KNOWN, systems=["b-sqlite"]))
    assert ["qbridge-redis", "a-redis"] == keys_of(Plan.made(KNOWN, systems=["a"], brokers=["redis"]))


def test_rounds_interleave_and_rotate() -> None:
    """In each round every system runs once, and another one begins."""
    plan = Plan.made(KNOWN, systems=["a", "b"], brokers=["redis"], workloads=["drain"], rounds=3)

    runs = [(number, variant.key.partition("-")[0]) for _, number, _, variant in plan.runs()]
    assert [
        *[(1, "qbridge"), (1, "a"), (1, "b")],
        *[(2, "a"), (2, "b"), (2, "qbridge")],
        *[(3, "b"), (3, "qbridge"), (3, "a")],
    ] == runs


def test_a_workload_is_run_by_those_who_take_part_in_it() -> None:
    """A system without a call for many is absent where that is measured."""
    known = [system("qbridge", "redis", workloads=frozenset({"enqueue_bulk"})), system("a", "redis")]

    plan = Plan.made(known, extent="all", workloads=["enqueue_bulk"], rounds=1)

    assert ["qbridge-redis"] == [variant.key for _, _, _, variant in plan.runs()]


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"systems": ["c"]}, "system 'c' is not known"),
        ({"brokers": ["kafka"]}, "broker 'kafka' is not known"),
        ({"workloads": ["drains"]}, "workload 'drains' is not known"),
    ],
)
def test_unknown_names_are_refused(choice: dict[str, list[str]], complaint: str) -> None:
    """A misspelt name runs nothing, instead of leaving something out."""
    with pytest.raises(ValueError, match=complaint):
        Plan.made(KNOWN, **choice)  # type: ignore[arg-type]  # each is a list of names


def test_every_system_is_described() -> None:
    """Every module of a system has a pinned version, variants with unlike keys, and workloads that exist."""
    known = known_systems()

    variants = [variant for each in known for variant in each.variants]
    keys = [variant.key for variant in variants]
    assert len(keys) == len(set(keys))
    assert ["bare", "qbridge"] == [each.name for each in known if not each.version]
    assert set() == {name for variant in variants for name in variant.workloads} - set(WORKLOADS)
    assert [] == [variant.key for variant in variants if not variant.guarantee]
    assert {"qbridge", "repid", "taskiq"} <= {each.name for each in known}


def test_the_fastest_peers_are_known() -> None:
    """What `make bench` runs beside qbridge is there, on the broker under which it stands."""
    brokers = {variant.key: variant.broker for each in known_systems() for variant in each.variants}

    assert {key: broker for broker, keys in FASTEST.items() for key in keys} == {
        key: brokers.get(key) for keys in FASTEST.values() for key in keys
    }
