"""What a call of the benchmark runs: which variants, which workloads, how often."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks import systems as packages
from benchmarks.harness.brokers import BROKERS
from benchmarks.harness.limits import Limit, known_limits
from benchmarks.harness.system import System, Variant
from benchmarks.harness.workloads import QUICK, USUAL, WORKLOADS, Scale, Workload

__all__ = ["FASTEST", "USUAL_WORKLOADS", "Plan", "known_systems"]

#: The keys of the fastest peers on each broker, by a run of all of them.
FASTEST = {
    "redis": ("repid", "taskiq-stream", "dramatiq"),
    "rabbitmq": ("dramatiq-rabbitmq", "faststream-rabbitmq", "taskiq-rabbitmq"),
    "sqlite": ("huey-sqlite",),
    "memory": (),
}

#: What `make bench` runs, within ten minutes, and in how many rounds at most.
USUAL_WORKLOADS = {"drain": 3, "enqueue_concurrent": 1, "enqueue_bulk": 1, "latency": 1, "io": 1, "limits": 2}

OWN = "qbridge"
LIMITS = "limits"

#: The system that is none: what brokers and clients need at least.
BARE = "bare"


def known_systems() -> list[System]:
    """Return all systems of `benchmarks.systems`."""
    modules = sorted(module.name for module in pkgutil.iter_modules(packages.__path__))
    return [importlib.import_module(f"{packages.__name__}.{name}").SYSTEM for name in modules]


@dataclass(frozen=True)
class Plan:
    """What is run.

    Args:
        variants: The variants, each with its system.
        workloads: Each with the rounds that it has.
        limits: The limits, each with the name of its module.
        limit_rounds: How often each limit runs.
        scale: How much is done.
    """

    variants: tuple[tuple[System, Variant], ...]
    workloads: tuple[tuple[Workload, int], ...]
    limits: tuple[tuple[str, Limit], ...]
    limit_rounds: int
    scale: Scale

    @classmethod
    def made(
        cls,
        known: Iterable[System],
        *,
        brokers: Sequence[str] | None = None,
        systems: Sequence[str] | None = None,
        workloads: Sequence[str] | None = None,
        rounds: int | None = None,
        extent: Literal["quick", "usual", "all"] = "usual",
    ) -> Plan:
        """Choose what is run.

        Args:
            known: All systems.
            brokers: Names of brokers; None means all of them.
            systems: Names of systems and keys of variants, beside qbridge; None leaves it to `extent`.
            workloads: Names of workloads, `limits` among them; None leaves it to `extent`.
            rounds: How often each runs; None leaves it to `extent`.
            extent: `usual` means the fastest peers and some workloads, the others everything.

        Raises:
            ValueError: A name is not known.
        """
        chosen = _chosen(known, brokers or list(BROKERS), systems, fastest_only=extent == "usual")
        everything = dict.fromkeys([*WORKLOADS, LIMITS], 1 if extent == "quick" else 3)
        usual = USUAL_WORKLOADS if extent == "usual" else everything
        names = workloads or list(usual)
        _see_that_known(names, everything, "workload")
        counts = {name: rounds or (usual.get(name, 3) if workloads is None else everything[name]) for name in names}
        return cls(
            variants=chosen,
            workloads=tuple((WORKLOADS[name], counts[name]) for name in WORKLOADS if name in counts),
            limits=tuple((module, limit) for module, limit in known_limits() if limit.broker in (brokers or BROKERS))
            if LIMITS in counts
            else (),
            limit_rounds=counts.get(LIMITS, 0),
            scale={"quick": QUICK, "usual": USUAL, "all": Scale()}[extent],
        )

    def runs(self) -> Iterator[tuple[Workload, int, System, Variant]]:
        """Yield each run with its round, from 1: every variant once, then again in another order."""
        for workload, rounds in self.workloads:
            taking_part = [(system, variant) for system, variant in self.variants if workload.name in variant.workloads]
            for number in range(rounds):
                turn = number % max(1, len(taking_part))
                for system, variant in taking_part[turn:] + taking_part[:turn]:
                    yield workload, number + 1, system, variant

    def described(self) -> str:
        """Return what would run, for a reader."""
        lines = [f"{variant.key} ({variant.broker}, {system.version})" for system, variant in self.variants]
        lines += [f"{workload.name}: {rounds} rounds" for workload, rounds in self.workloads]
        lines += [f"limit {limit.key}: {self.limit_rounds} rounds" for _, limit in self.limits]
        return "\n".join([*lines, f"{len(list(self.runs()))} runs of systems"])


def _chosen(
    known: Iterable[System], brokers: Collection[str], systems: Sequence[str] | None, *, fastest_only: bool
) -> tuple[tuple[System, Variant], ...]:
    pairs = [(system, variant) for system in known for variant in system.variants]
    _see_that_known(brokers, BROKERS, "broker")
    if systems is not None:
        _see_that_known(systems, [name for system, variant in pairs for name in (system.name, variant.key)], "system")
        wanted = {OWN, *systems}
    elif fastest_only:
        wanted = {OWN, BARE, *(key for keys in FASTEST.values() for key in keys)}
    else:
        wanted = {system.name for system, _ in pairs}
    return tuple(
        (system, variant)
        for broker in BROKERS
        for system, variant in pairs
        if variant.broker == broker and broker in brokers and wanted & {system.name, variant.key}
    )


def _see_that_known(names: Iterable[str], known: Collection[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name!r} is not known (known: {', '.join(dict.fromkeys(known))})")
