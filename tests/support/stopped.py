"""Waiting until a process that was told to stop has stopped: on a busy machine its threads run on for a moment."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["wait_until_stopped"]

#: Seconds after which a process should have obeyed a SIGSTOP.
_PATIENCE = 10.0


def wait_until_stopped(pid: int) -> None:
    """Return when no thread of a process runs any more, after a SIGSTOP.

    Raises:
        TimeoutError: One still does, or the process is gone.
    """
    deadline = time.monotonic() + _PATIENCE
    while not _is_stopped(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} has not stopped")
        time.sleep(0.001)


def _is_stopped(pid: int) -> bool:
    try:
        # The state stands behind the name, which is in brackets and may hold anything.
        states = [
            stat.read_text(errors="replace").rpartition(") ")[2][0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")
        ]
    except OSError:  # a thread that has just ended
        return False
    return bool(states) and set(states) <= set("TtZX")
