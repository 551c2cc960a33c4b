"""repid 2 on Redis streams: the runner script of its documentation, since it has no command of its own.

Its broker for RabbitMQ speaks AMQP 1.0 with the addresses of RabbitMQ 4 and is not measured: Debian's RabbitMQ 3.10
speaks AMQP 1.0 only by a plugin, and with older addresses.
"""

from benchmarks.harness.system import EVERY_WORKLOAD, Command, Setting, System, Variant


def worker(setting: Setting) -> Command:
    """Return the command that runs the documented `run_worker` under uvloop."""
    return Command((str(setting.python), "-m", "benchmarks.systems.repid.app"))


SYSTEM = System(
    name="repid",
    distribution="repid",
    requirements=(
        "repid[redis]==2.1.4",
        "redis==7.4.1",
        "hiredis==3.5.0",
        "uvloop==0.23.0",
        "typing-extensions==4.16.0",  # imported on CPython 3.11, and not among repid's dependencies there
    ),
    variants=(
        Variant(
            key="repid",
            broker="redis",
            guarantee="at least once (60 s after a crash); entries are never deleted from the stream",
            settings="streams, uvloop, hiredis, batches of 100, claims of abandoned entries each 30 s, keep-alive off",
            worker=worker,
            workloads=EVERY_WORKLOAD | {"cpu_neighbour"},
            tasks=20_000,
            forks=False,
        ),
    ),
)
