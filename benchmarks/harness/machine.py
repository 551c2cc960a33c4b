"""What the benchmark ran on, in one sentence."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable
from pathlib import Path

__all__ = ["described_machine"]


def described_machine(brokers: Iterable[str]) -> str:
    """Return the processor, the memory, the system and the versions of what is measured, for a reader."""
    brokers = set(brokers)
    told = [
        f"{os.cpu_count()} cores of {_processor()}",
        f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        f"Linux {platform.release()}",
        f"CPython {platform.python_version()}",
    ]
    if "redis" in brokers and (found := re.search(r"v=(\S+)", _printed(["redis-server", "--version"]))):
        told.append(f"Redis {found[1]}")
    if "rabbitmq" in brokers and (found := re.search(r"[\d.]+", _rabbitmq())):
        told.append(f"RabbitMQ {found[0]}")
    if "sqlite" in brokers:
        told.append(f"SQLite {sqlite3.sqlite_version}")
    return ", ".join(told)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _rabbitmq() -> str:
    # Asking rabbitmqctl takes two seconds, and Debian's wants to be root.
    folders = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return folders[-1].name.partition("-")[2] if folders else _printed(["rabbitmqctl", "version"])


def _printed(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
