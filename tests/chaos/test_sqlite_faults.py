"""A file that others lock, on a disk that fills up, under a clock that is set, while tasks flow."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chaos.brokers import sqlite_broker
from tests.support.chaos.campaign import Campaign, campaign_timeout
from tests.support.chaos.sqlite_faults import CLOCK, DISK_FAULTS, SQLITE_FAULTS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MiB, in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"this user may not mount a disk: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.timeout(campaign_timeout(SQLITE_FAULTS))
def test_nothing_is_lost_whatever_becomes_of_a_file_and_its_clock(tmp_path: Path) -> None:
    """Every accepted message comes to its one end, and only what has lost its lease to the clock is run again."""
    with Campaign(tmp_path, sqlite_broker(tmp_path), family="file", handlers=[CLOCK]) as campaign:
        campaign.run(SQLITE_FAULTS)


@pytest.mark.timeout(campaign_timeout(DISK_FAULTS))
def test_nothing_is_lost_whatever_becomes_of_a_disk(tmp_path: Path, small_disk: Path) -> None:
    """Every accepted message comes to its one end, though there is no room for another one meanwhile."""
    with Campaign(tmp_path, sqlite_broker(small_disk), family="disk") as campaign:
        campaign.run(DISK_FAULTS)
