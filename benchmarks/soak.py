"""Hours of mixed work under faults, in minutes: is anything lost, and does anything grow?

    python benchmarks/soak.py                                    # 30 minutes
    python benchmarks/soak.py --minutes 3 --json soak.json       # a short one, with all that was measured

A Redis and a RabbitMQ of its own at the same time, each with a producer (a few hundred tasks a second: no-ops, waits,
failures that are tried again, plain functions, 10 KiB arguments, delayed ones) and two workers. Every half minute each
site is hit by one of six faults in turn: a worker is killed, stopped in order, frozen; the broker is restarted,
frozen, told to close all connections. One worker of each site, the veteran, is never killed: its memory, files and
threads are the series that must stay flat, and so must what the broker keeps. At the end everything that was accepted
must have run; the exit code tells: 0 if all is well, 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from soak_series import Series, ledger_of
from soak_sites import RabbitSite, RedisSite, Site

from qbridge import QBridge

#: Seconds between two faults of a site, and between two samples of it at most.
FAULT_PAUSE, SAMPLE_PAUSE = (20.0, 30.0), 30.0

#: Samples at least, however short it is.
LEAST_SAMPLES = 12

#: Seconds within which the first task is run.
FIRST_WORK = 60.0

#: Seconds that the workers get at the end to do all that is left.
LAST_WORK = 240.0


def say(text: str, began: float) -> None:
    """Print what goes on."""
    print(f"[{time.monotonic() - began:6.0f} s] {text}", flush=True)


def keep_sampling(site: Site, series: Series, stopping: threading.Event, pause: float, began: float) -> None:
    """Sample a site again and again until it is over, at moments at which it is whole."""
    while not stopping.wait(pause):
        with site.whole:
            site.look_after()
            try:
                read = site.sample()
            except Exception as exc:  # noqa: BLE001  # a broker that has just come back may not count yet
                say(f"{site.name}: no sample: {exc!r}", began)
                continue
        series.add(time.monotonic() - began, read)
        shown = ", ".join(f"{key} {value:g}" for key, value in read.items())
        say(f"{site.name}: {shown}, behind {read['sent'] - read['ended']:g}, faults {len(site.faults)}", began)


def wait_for_work(sites: list[Site]) -> None:
    """Return when tasks are run at each site.

    Raises:
        RuntimeError: None are, at one of them.
    """
    deadline = time.monotonic() + FIRST_WORK
    for site in sites:
        while not site.ended():
            site.look_after()
            if site.surprises or time.monotonic() > deadline:
                raise RuntimeError(f"{site.name}: no task is run: {site.surprises}, see the logs in {site.folder}")
            time.sleep(0.1)


async def left(site: Site) -> dict[str, int]:
    """Count what is left in a site's queue."""
    async with QBridge(queues={"default": site.queue()}) as bridge, bridge.source() as source:
        stats = await source.stats()
    return {"ready": stats.ready, "delayed": stats.delayed, "in_flight": stats.in_flight, "dead": stats.dead}


def finish(site: Site, began: float) -> dict[str, Any]:
    """Let a site's workers do all that is left, stop them, and check the ledger."""
    site.end("producer")
    deadline = time.monotonic() + LAST_WORK
    while True:
        ledger = ledger_of(site.folder)
        remaining = asyncio.run(left(site))
        waits = remaining["ready"] + remaining["delayed"] + remaining["in_flight"]
        if (not waits and not ledger["lost"]) or time.monotonic() > deadline:
            break
        time.sleep(1)
    for name in ("veteran", "recruit"):
        site.end(name)
    result = {**ledger_of(site.folder), **remaining, "faults": len(site.faults), "surprises": site.surprises}
    say(f"{site.name}: {result}", began)
    return result


def soak(minutes: float, rate: float, folder: Path) -> dict[str, Any]:
    """Run it all; return what was measured."""
    began = time.monotonic()
    pause = min(SAMPLE_PAUSE, minutes * 60 / LEAST_SAMPLES)
    stopping = threading.Event()
    with ExitStack() as stack:
        sites: list[Site] = [RedisSite(folder / "redis", rate), RabbitSite(folder / "rabbitmq", rate)]
        for site in sites:
            stack.enter_context(site)
        wait_for_work(sites)
        say("everything runs", began)
        series = {site.name: Series() for site in sites}
        threads = [threading.Thread(target=site.run_faults, args=(stopping, FAULT_PAUSE)) for site in sites]
        threads += [
            threading.Thread(target=keep_sampling, args=(site, series[site.name], stopping, pause, began))
            for site in sites
        ]
        for thread in threads:
            thread.start()
        try:
            time.sleep(minutes * 60)
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        results = {site.name: finish(site, began) for site in sites}
        return {
            "minutes": minutes,
            "rate": rate,
            "results": results,
            "faults": {site.name: site.faults for site in sites},
            "series": {name: one.rows for name, one in series.items()},
            "growth": {name: one.growth() for name, one in series.items()},
        }


def is_well(result: dict[str, Any]) -> bool:
    """Return whether a site kept its promises."""
    wrong = ("lost", "unexpected", "early", "ready", "delayed", "in_flight", "dead", "surprises")
    return not any(result[key] for key in wrong)


def main() -> int:
    """Soak, print the tables, and tell whether all is well."""
    parser = argparse.ArgumentParser(description="Mixed work under faults: is anything lost, does anything grow?")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=150.0, help="tasks a second, for each broker")
    parser.add_argument("--json", type=Path, help="where to write all that was measured")
    parser.add_argument("--keep", action="store_true", help="keep the logs and ledgers, even if all is well")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever was started is ended
    folder = Path(tempfile.mkdtemp(prefix="qbridge-soak-"))
    print(f"logs and ledgers: {folder}", flush=True)
    measured = soak(arguments.minutes, arguments.rate, folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1))
    all_well = True
    for name, result in measured["results"].items():
        print(f"\n{name}: {json.dumps(result)}\n")
        print(Series(measured["series"][name]).table())
        growing = [key for key, one in measured["growth"][name].items() if not one["flat"]]
        print(f"\n{name}: {'flat' if not growing else 'NOT FLAT: ' + ', '.join(growing)}")
        for key, one in measured["growth"][name].items():
            print(f"- {key}: {one['first']:g} in the first third, {one['last']:g} in the last")
        all_well &= is_well(result) and not growing
    if all_well and not arguments.keep:
        shutil.rmtree(folder)
    print(f"\n{'all is well' if all_well else f'SOMETHING IS WRONG: see {folder}'}")
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main())
