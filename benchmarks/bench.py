"""qbridge and its peers side by side: the same handlers, one machine, interleaved runs, medians with their spread.

    python benchmarks/bench.py                          # qbridge, the three fastest peers of each broker, the limits
    python benchmarks/bench.py --all                    # every system, every workload
    python benchmarks/bench.py --quick --systems repid --workloads drain,latency
    python benchmarks/bench.py --from a.json b.json --publish

Each system runs in a virtual environment of its own, with pinned versions, by its own official command; see
`benchmarks/systems`. Each run has an empty broker. In every round each system runs once, and the order rotates. A run
that fails or takes too long is reported as such, with the last lines of its log.
"""

from __future__ import annotations

import argparse
import compileall
import json
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness.brokers import BROKERS
from benchmarks.harness.plan import Plan, known_systems
from benchmarks.harness.publishing import publish
from benchmarks.harness.report import merged, noted, page_tables
from benchmarks.harness.rounds import run_rounds
from benchmarks.harness.workloads import WORKLOADS


def main() -> int:
    """Run what was asked for, and print the tables; return 1 if a run of qbridge did not finish."""
    # So that servers and workers are ended in order.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(
        description="qbridge and its peers side by side.", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="one round with few tasks: shows that everything works")
    extent.add_argument("--all", action="store_true", help="every system and every workload; takes hours")
    parser.add_argument("--brokers", type=_names, help=f"some of {','.join(BROKERS)}")
    parser.add_argument("--systems", type=_names, help="names of systems or of their variants; qbridge is always there")
    parser.add_argument("--workloads", type=_names, help=f"some of {','.join(WORKLOADS)}, limits")
    parser.add_argument("--rounds", type=int, help="how often each system runs; 3 unless it is quick")
    parser.add_argument("--output", type=Path, help="write all raw runs to this JSON file, after each run")
    parser.add_argument("--from", dest="files", type=Path, nargs="+", help="run nothing; report these raw results")
    parser.add_argument("--publish", action="store_true", help="write the tables and the picture of the documentation")
    parser.add_argument("--list", action="store_true", help="print what would run, and end")
    options = parser.parse_args()
    if options.files:
        raw = merged([json.loads(file.read_text("utf-8")) for file in options.files])
    else:
        try:
            plan = Plan.made(
                known_systems(),
                brokers=options.brokers,
                systems=options.systems,
                workloads=options.workloads,
                rounds=options.rounds,
                extent="quick" if options.quick else "all" if options.all else "usual",
            )
        except ValueError as exc:
            parser.error(str(exc))
        if options.list:
            print(plan.described())
            return 0
        for package in ("qbridge", "backends"):  # what installing does for every peer
            compileall.compile_dir(Path(__file__).resolve().parents[1] / package, quiet=1)
        raw = run_rounds(plan, command=f"python {' '.join(_shown_arguments())}", output=options.output)
    told = noted(raw)
    print(page_tables(told))
    if options.publish:
        publish(told)
    failed = [result for result in told["results"] if result["failed"]]
    return 1 if any(told["variants"][result["key"]]["system"] == "qbridge" for result in failed) else 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _shown_arguments() -> list[str]:
    arguments = sys.argv[1:]
    if "--output" in arguments:  # a path of this machine
        at = arguments.index("--output")
        arguments = arguments[:at] + arguments[at + 2 :]
    return ["benchmarks/bench.py", *(argument for argument in arguments if argument != "--publish")]


if __name__ == "__main__":
    sys.exit(main())
