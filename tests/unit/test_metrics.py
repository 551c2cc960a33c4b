"""Metrics: every counter is shown, by its documented name, as Prometheus reads it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import qbridge
from qbridge.condition import Condition, WorkerView
from qbridge.counts import QueueCounts
from qbridge.metrics import METRICS, Metric, render
from qbridge.snapshot import LoopGroupSnapshot, QueueSnapshot, WorkerSnapshot
from qbridge.watchdog import BlockedLoop, LoopHealth
from tests.support.probing import samples

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "run-as-a-service.md"

SNAPSHOT = WorkerSnapshot(
    queues={
        "orders": QueueSnapshot(
            state="ready",
            held=101,
            unsettled=102,
            counts=QueueCounts(**{field.name: number for number, field in enumerate(fields(QueueCounts), start=201)}),
        ),
        "pictures": QueueSnapshot(state="degraded"),
    },
    groups={"default": LoopGroupSnapshot(capacity=103, in_flight=104, given_up=105)},
    waiting=106,
    outcomes={"ack": 107, "retry": 108},
    loops=LoopHealth(
        blocked=(BlockedLoop(loop_thread="default-0", seconds=1.5),),
        is_exhausted=True,
        blocked_total=109,
        replaced_total=110,
        held_total=111,
    ),
    is_draining=True,
)


def shown(*views: WorkerView) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return what is shown of these workers."""
    text, _ = render(Condition(at=0, workers=views))
    return samples(text.decode())


def test_every_number_of_a_snapshot_is_shown_once() -> None:
    """No counter is forgotten, and none is shown in another's place."""
    found = shown(WorkerView(number=2, snapshot=SNAPSHOT, deaths=112))

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset({"worker": "2", **labels}.items())]

    counted = [value for (_, labels), value in found.items() if ("queue", "orders") in labels and value > 200]
    assert sorted(counted) == [201 + number for number in range(len(fields(QueueCounts)))]
    assert 201 == value("qbridge_tasks_succeeded_total", queue="orders")
    assert 202 == value("qbridge_tasks_failed_total", queue="orders")
    assert 203 == value("qbridge_reconnects_total", queue="orders")
    assert 204 == value("qbridge_stalls_total", queue="orders")
    assert 205 == value("qbridge_lease_lost_total", queue="orders")
    assert 206 == value("qbridge_overtimes_total", queue="orders")
    assert 207 == value("qbridge_settlements_suppressed_total", queue="orders")
    assert 208 == value("qbridge_settlements_late_total", queue="orders")
    assert 209 == value("qbridge_messages_resumed_total", queue="orders")
    assert 210 == value("qbridge_slowdowns_total", queue="orders")
    assert (1, 0) == (value("qbridge_source_up", queue="orders"), value("qbridge_source_up", queue="pictures"))
    assert 101 == value("qbridge_messages_held", queue="orders")
    assert 102 == value("qbridge_settlements_waiting", queue="orders")
    assert 103 == value("qbridge_loops_capacity", loops="default")
    assert 104 == value("qbridge_messages_in_flight", loops="default")
    assert 105 == value("qbridge_loops_given_up", loops="default")
    assert 106 == value("qbridge_messages_waiting")
    assert 107 == value("qbridge_tasks_ended_total", outcome="ack")
    assert 108 == value("qbridge_tasks_ended_total", outcome="retry")
    assert 1.5 == value("qbridge_loop_blocked_seconds", loop="default-0")
    assert 109 == value("qbridge_loop_blocked_total")
    assert 110 == value("qbridge_loop_replaced_total")
    assert 111 == value("qbridge_main_loop_held_total")
    assert 112 == value("qbridge_worker_deaths_total")
    assert (1, 1, 1) == (
        value("qbridge_draining"),
        value("qbridge_loops_exhausted"),
        value("qbridge_worker_up"),
    )


def test_a_worker_that_has_told_nothing_shows_that_alone() -> None:
    """It is down, and its counters are absent instead of 0."""
    found = shown(WorkerView(number=1, deaths=3))

    assert {
        "qbridge_worker_up": 0,
        "qbridge_worker_deaths_total": 3,
        "qbridge_build_info": 1,
    } == {name: value for (name, _), value in found.items()}


def test_the_version_is_shown() -> None:
    """A dashboard can tell which worker was deployed."""
    [labels] = [dict(labels) for name, labels in shown() if name == "qbridge_build_info"]

    assert qbridge.__version__ == labels["version"]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_named_by_the_rules_of_prometheus(metric: Metric) -> None:
    """Counters end in _total and others don't; labels name nothing that has many values."""
    assert re.fullmatch(r"qbridge_[a-z]+(_[a-z]+)*", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert {"queue", "loops", "loop", "outcome"} >= set(metric.labels)


def test_the_guide_lists_every_metric() -> None:
    """The table of the guide has the name, the labels and no other metric."""
    rows = re.findall(r"^\| `(qbridge_\w+)` \| ([^|]*) \|", GUIDE.read_text("utf-8"), re.M)

    expected = {metric.name: ", ".join(f"`{label}`" for label in metric.labels) for metric in METRICS}
    assert {**expected, "qbridge_build_info": "`version`, `python`"} == {name: labels.strip() for name, labels in rows}
