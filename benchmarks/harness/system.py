"""What a module of `benchmarks.systems` provides: a `System`, and how its worker and its sender are started.

`benchmarks/systems/<name>/__init__.py` has `SYSTEM`. The harness imports it, so it imports neither the system's library
nor its `app.py`. `app.py` has the handlers and `open_sender()`; only processes in the system's own virtual environment
import it.

Handlers are the same in all systems and tell `benchmarks.harness.recorder` what they did. `number` is that of the task:

    noop(number)              ran(number)
    io(number)                started(); sleep 50 ms (asyncio.sleep, or time.sleep on threads); ran(number)
    payload(number, text)     ran(number)
    flaky(number)             if number % 10 == 0 and attempt(number) == 1: raise RuntimeError; ran(number)
    stamp(number, sent)       latency(number, sent)        sent: time.monotonic_ns() of the sender
    crunch(number, seconds)   a pure Python loop for this many seconds of processor time (thread_time()), then
                              ran(number); only where `cpu_neighbour` is among the workloads

A failed `flaky` is tried again with the smallest delay that the system allows.

Every process gets these environment variables, with the root of the repository in PYTHONPATH and as its working folder:

    BENCH_RECORD         the file that the recorder writes
    BENCH_VARIANT        the variant's key
    BENCH_BROKER         redis, rabbitmq, sqlite or memory
    BENCH_URL            where the broker is: redis://…, amqp://…, or a path for SQLite
    BENCH_CONCURRENCY    tasks that run at once in one worker process
    BENCH_PROCESSES      worker processes
    BENCH_FOLDER         a scratch folder of this run, for configuration files
    BENCH_WORKLOAD       name of the workload
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["EVERY_WORKLOAD", "Command", "Setting", "System", "Variant"]

#: Workloads that any system takes part in. `enqueue_bulk` needs a bulk call, `cpu_neighbour` a handler `crunch`.
EVERY_WORKLOAD = frozenset(
    {
        "drain",
        "drain_2",  # with two worker processes
        "enqueue_one",  # awaited one by one
        "enqueue_concurrent",  # 1,000 at once
        "latency",
        "io",
        "payload_100B",
        "payload_10KiB",
        "payload_1MiB",
        "retries",
        "rss",
        "cold_start",
    }
)


@dataclass(frozen=True)
class Setting:
    """What a command is made for.

    Args:
        python: The interpreter of the system's virtual environment; the system's programs lie beside it.
        url: Where the broker is: a URL, or a path for SQLite.
        concurrency: Tasks that run at once in one worker process.
        processes: Worker processes.
        folder: A scratch folder of this run, for configuration files.
        workload: Name of the workload.
    """

    python: Path
    url: str
    concurrency: int
    processes: int
    folder: Path
    workload: str

    def program(self, name: str) -> str:
        """Return the path of a program of the virtual environment."""
        return str(self.python.parent / name)


@dataclass(frozen=True)
class Command:
    """A command line, and what its environment has beside what every process gets."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """One way to run a system.

    Args:
        key: Its name in tables, such as `taskiq-stream`.
        broker: `redis`, `rabbitmq`, `sqlite` or `memory`.
        guarantee: What the measured configuration promises, for a reader: `at least once`, or
            `at most once (popped before it runs)`.
        settings: What is set and why, for a reader: `uvloop, prefetch 100, no results`.
        worker: Makes the system's own official command that runs a worker in the foreground. SIGTERM ends it.
        workloads: Names of the workloads it takes part in.
        absent: Names of workloads it can't take part in, each with the reason, which the report shows.
        tasks: How many no-ops a drain has, so that it takes two to five seconds.
        concurrency: Tasks that run at once; not 100 only where the documentation advises against it.
        forks: Whether the command runs several processes by itself; else the harness starts it once for each.
        sends_itself: The worker process sends its tasks itself, since no other process can: `BENCH_TASK`, `BENCH_TASKS`
            and `BENCH_BYTES` tell it what.
        prepare: Called before worker and sender start, on a broker that is empty; e.g. writes a configuration file
            into `setting.folder`.
    """

    key: str
    broker: str
    guarantee: str
    settings: str
    worker: Callable[[Setting], Command]
    workloads: frozenset[str] = EVERY_WORKLOAD
    absent: Mapping[str, str] = field(default_factory=dict)
    tasks: int = 20_000
    concurrency: int = 100
    forks: bool = True
    sends_itself: bool = False
    prepare: Callable[[Setting], None] | None = None


@dataclass(frozen=True)
class System:
    """A task queue.

    Args:
        name: Name of its package here.
        distribution: Name of the distribution whose version tables show; empty if there is none.
        requirements: Pins like `name==version`, all that its virtual environment needs.
        variants: How it is run, at most one per key.
        app: The module with its handlers and `open_sender`.
    """

    name: str
    distribution: str
    requirements: tuple[str, ...]
    variants: tuple[Variant, ...]

    @property
    def app(self) -> str:
        """Name of the module with its handlers and `open_sender`."""
        return f"benchmarks.systems.{self.name}.app"

    @property
    def version(self) -> str:
        """The pinned version of its distribution; empty if it isn't pinned."""
        for requirement in self.requirements:
            name, _, version = requirement.partition("==")
            if name.partition("[")[0] == self.distribution:
                return version
        return ""
