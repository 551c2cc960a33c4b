"""Run a plan: each run on an empty broker, what it gave or why it failed, written down at once."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness.brokers import Brokers
from benchmarks.harness.machine import described_machine
from benchmarks.harness.plan import Plan
from benchmarks.harness.processes import DidNotFinishError, finish
from benchmarks.harness.run import base_environment, new_run
from benchmarks.harness.system import System, Variant
from benchmarks.harness.venvs import ROOT, python_of
from benchmarks.harness.workloads import Scale, Workload, room_for

__all__ = ["run_rounds"]

#: How many processes may want a processor before a run begins.
CALM = 0.5

#: Seconds that a limit may take.
LONGEST = 60.0


def run_rounds(plan: Plan, *, command: str, output: Path | None = None) -> dict[str, Any]:
    """Run everything; return the raw results.

    Args:
        plan: What to run.
        command: How this was called, for a reader.
        output: A file that the results are written to after each run.
    """
    raw: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": described_machine(variant.broker for _, variant in plan.variants),
        "load": round(os.getloadavg()[0], 1),
        "command": command,
        "variants": {variant.key: _told(system, variant) for system, variant in plan.variants},
        "workloads": {workload.name: _told_workload(workload) for workload, _ in plan.workloads},
        "limits": {limit.key: asdict(limit) for _, limit in plan.limits},
        "runs": [],
        "limit_runs": [],
    }
    if raw["load"] > CALM:
        _say(f"{raw['load']} processes want a processor already: figures will be too low, and ratios may be wrong")
    pythons = {}
    for system, _ in plan.variants:
        if system.name not in pythons:
            _say(f"environment of {system.name}")
            pythons[system.name] = python_of(system.name, system.requirements)
    with Brokers() as brokers:
        for workload, number, system, variant in plan.runs():
            told = {"workload": workload.name, "key": variant.key, "round": number}
            raw["runs"].append(
                told
                | _tried(
                    f"{workload.name} round {number}: {variant.key}",
                    partial(
                        _measured,
                        workload,
                        system,
                        variant,
                        python=pythons[system.name],
                        brokers=brokers,
                        scale=plan.scale,
                    ),
                )
            )
            _write(raw, output)
        for number in range(plan.limit_rounds):
            for module, limit in plan.limits:
                told = {"key": limit.key, "round": number + 1}
                raw["limit_runs"].append(
                    told
                    | _tried(
                        f"limit round {number + 1}: {limit.key}",
                        partial(_limit, module, limit.key, limit.broker, brokers),
                    )
                )
                _write(raw, output)
    return raw


def _measured(
    workload: Workload, system: System, variant: Variant, *, python: Path, brokers: Brokers, scale: Scale
) -> Mapping[str, float]:
    with new_run(
        system,
        variant,
        workload.name,
        python=python,
        brokers=brokers,
        tasks=room_for(variant, scale),
        processes=workload.processes,
    ) as run:
        return workload.measure(run, scale)


def _limit(module: str, key: str, broker: str, brokers: Brokers) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory(prefix="qbridge-bench-") as name, brokers.fresh(broker) as url:
        folder = Path(name)
        printed = finish(
            [sys.executable, "-m", module, key],
            environment=base_environment(url, folder),
            folder=ROOT,
            log=folder / "limit.log",
            longest=LONGEST,
        )
    found = json.loads(printed.splitlines()[-1])
    return {"rate": found["tasks"] / found["seconds"]}


def _tried(title: str, measure: Callable[[], Mapping[str, float]]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        figures = measure()
    except DidNotFinishError as exc:
        _say(f"{title}: did not finish: {exc.reason}", *exc.log)
        return {"failure": exc.reason, "log": exc.log}
    except Exception as exc:  # noqa: BLE001  # one run that can't be made must not end hours of others
        reason = " ".join(f"{type(exc).__name__}: {exc}".split())
        _say(f"{title}: could not be made: {reason}")
        return {"failure": reason, "log": []}
    shown = ", ".join(f"{key} {value:,.2f}" for key, value in figures.items())
    took = time.monotonic() - began
    _say(f"{title}: {shown} (took {took:.1f} s)")
    return {"figures": dict(figures), "took": round(took, 1)}


def _told(system: System, variant: Variant) -> dict[str, Any]:
    return {
        "system": system.name,
        "version": system.version or (version(system.distribution) if system.distribution else ""),
        "broker": variant.broker,
        "guarantee": variant.guarantee,
        "settings": variant.settings,
        "absent": dict(variant.absent),
    }


def _told_workload(workload: Workload) -> dict[str, Any]:
    return {"title": workload.title, "figures": [asdict(figure) for figure in workload.figures]}


def _write(raw: Mapping[str, Any], output: Path | None) -> None:
    if output is not None:
        output.write_text(json.dumps(raw, indent=1) + "\n", "utf-8")


def _say(*lines: str) -> None:
    sys.stderr.write("\n    ".join(lines) + "\n")
    sys.stderr.flush()
