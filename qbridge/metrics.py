"""Metrics: the counters of a service's workers in the text format of Prometheus.

Labels name workers, queues, loop groups and loop threads, of which there are few; never messages.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from qbridge.condition import Condition, WorkerView
from qbridge.snapshot import LoopGroupSnapshot, QueueSnapshot, WorkerSnapshot

if TYPE_CHECKING:
    from prometheus_client import Metric as MetricFamily

__all__ = ["METRICS", "Metric", "MetricsMissingError", "render"]

Kind = Literal["counter", "gauge"]
Values = Iterator[tuple[tuple[str, ...], float]]


class MetricsMissingError(Exception):
    """The library that writes metrics is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: As it is shown; a counter's ends in `_total`.
        kind: Counters only grow, until their process is followed by another.
        text: What it says.
        labels: Its labels beside `worker`.
        read: Yields the values of these labels and the value.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    read: Callable[[WorkerView], Values]


def render(condition: Condition) -> tuple[bytes, str]:
    """Return all metrics as text, and its content type. May be called from any thread.

    Raises:
        MetricsMissingError: prometheus_client is not installed.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ImportError as exc:
        raise MetricsMissingError('metrics need prometheus_client: pip install "qbridge[metrics]"') from exc
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(condition))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector:
    """What prometheus_client asks."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition

    def collect(self) -> Iterator[MetricFamily]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        yield InfoMetricFamily(
            "qbridge_build",
            "The version of qbridge, and of Python.",
            value={"version": metadata.version("qbridge"), "python": platform.python_version()},
        )
        families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for metric in METRICS:
            family = families[metric.kind](metric.name, metric.text, labels=("worker", *metric.labels))
            for view in self._condition.workers:
                for labels, value in metric.read(view):
                    family.add_metric((str(view.number), *labels), value)
            yield family


def _known(read: Callable[[WorkerSnapshot], Values]) -> Callable[[WorkerView], Values]:
    """Return what reads a worker's snapshot, and yields nothing while there is none."""
    return lambda view: iter(()) if view.snapshot is None else read(view.snapshot)


def _of_worker(name: str, kind: Kind, text: str, read: Callable[[WorkerSnapshot], float]) -> Metric:
    def values(snapshot: WorkerSnapshot) -> Values:
        yield (), read(snapshot)

    return Metric(name=name, kind=kind, text=text, read=_known(values))


def _count(field: str, name: str, text: str) -> Metric:
    """Return the metric of a field of `QueueCounts`."""

    def values(snapshot: WorkerSnapshot) -> Values:
        for queue, found in snapshot.queues.items():
            yield (queue,), getattr(found.counts, field)

    return Metric(name=f"qbridge_{name}_total", kind="counter", text=text, labels=("queue",), read=_known(values))


def _of_queues(name: str, text: str, read: Callable[[QueueSnapshot], float]) -> Metric:
    def values(snapshot: WorkerSnapshot) -> Values:
        for queue, found in snapshot.queues.items():
            yield (queue,), read(found)

    return Metric(name=name, kind="gauge", text=text, labels=("queue",), read=_known(values))


def _of_groups(name: str, text: str, read: Callable[[LoopGroupSnapshot], float]) -> Metric:
    def values(snapshot: WorkerSnapshot) -> Values:
        for group, found in snapshot.groups.items():
            yield (group,), read(found)

    return Metric(name=name, kind="gauge", text=text, labels=("loops",), read=_known(values))


def _outcomes(snapshot: WorkerSnapshot) -> Values:
    for outcome, count in snapshot.outcomes.items():
        yield (outcome,), count


def _blocked(snapshot: WorkerSnapshot) -> Values:
    for blocked in snapshot.loops.blocked:
        yield (blocked.loop_thread,), blocked.seconds


def _up(view: WorkerView) -> Values:
    yield (), view.snapshot is not None


def _deaths(view: WorkerView) -> Values:
    yield (), view.deaths


#: All metrics but `qbridge_build_info`, in the order in which they are shown.
METRICS = (
    Metric(name="qbridge_worker_up", kind="gauge", text="Whether the worker has started and runs.", read=_up),
    Metric(
        name="qbridge_worker_deaths_total", kind="counter", text="Processes of this worker that died.", read=_deaths
    ),
    _of_worker("qbridge_draining", "gauge", "Whether the worker leaves.", lambda snapshot: snapshot.is_draining),
    Metric(
        name="qbridge_tasks_ended_total",
        kind="counter",
        text="Tasks that were settled, by outcome: ack, retry, release or dead_letter.",
        labels=("outcome",),
        read=_known(_outcomes),
    ),
    _count("succeeded", "tasks_succeeded", "Handlers that returned in time."),
    _count("failed", "tasks_failed", "Attempts that failed."),
    _count("reconnects", "reconnects", "Openings of the source after a loss."),
    _count("stalls", "stalls", "Losses that were connections which brought nothing though messages were ready."),
    _count("leases_lost", "lease_lost", "Messages that became another worker's while their handlers ran."),
    _count("overtimes", "overtimes", "Messages let go because their handlers ignored their time limit."),
    _count("suppressed", "settlements_suppressed", "Handlers that ended when their message was no longer theirs."),
    _count("late", "settlements_late", "Ends that came too late for the broker: their messages run again."),
    _count("resumed", "messages_resumed", "Messages that came back after a loss and were not run again."),
    _count("slowed", "slowdowns", "How often the retry budget was spent, and claims were slowed."),
    _of_queues("qbridge_source_up", "Whether the source is open.", lambda queue: queue.state == "ready"),
    _of_queues("qbridge_messages_held", "Messages that are claimed and not settled.", lambda queue: queue.held),
    _of_queues(
        "qbridge_settlements_waiting", "Ends that the broker has not been told of.", lambda queue: queue.unsettled
    ),
    _of_worker(
        "qbridge_messages_waiting",
        "gauge",
        "Messages that are claimed and wait for their turn.",
        lambda snapshot: snapshot.waiting,
    ),
    _of_groups("qbridge_messages_in_flight", "Handlers that run.", lambda group: group.in_flight),
    _of_groups("qbridge_loops_capacity", "Handlers that may run at once.", lambda group: group.capacity),
    _of_groups("qbridge_loops_given_up", "Loop threads given up that have not ended.", lambda group: group.given_up),
    Metric(
        name="qbridge_loop_blocked_seconds",
        kind="gauge",
        text="For how long a loop has been blocked; nothing for those that are not.",
        labels=("loop",),
        read=_known(_blocked),
    ),
    _of_worker(
        "qbridge_loop_blocked_total",
        "counter",
        "How often a loop was blocked.",
        lambda snapshot: snapshot.loops.blocked_total,
    ),
    _of_worker(
        "qbridge_loop_replaced_total",
        "counter",
        "Loop threads that were given up.",
        lambda snapshot: snapshot.loops.replaced_total,
    ),
    _of_worker(
        "qbridge_main_loop_held_total",
        "counter",
        "How often the main loop was held up.",
        lambda snapshot: snapshot.loops.held_total,
    ),
    _of_worker(
        "qbridge_loops_exhausted",
        "gauge",
        "Whether blocked loops are no longer replaced: the worker is to be restarted.",
        lambda snapshot: snapshot.loops.is_exhausted,
    ),
)
