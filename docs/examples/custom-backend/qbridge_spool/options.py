"""SpoolOptions: what stands under a queue with `backend: spool`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from qbridge import BackendOptions, Duration

__all__ = ["SpoolOptions"]


class SpoolOptions(BackendOptions):
    """Options of a queue in a folder.

    Attributes:
        path: The folder; made if it is missing, in a folder that exists. On a disk of this machine.
        lease: Seconds after which a delivery without a sign of life is handed to somebody else.
        poll_interval: Seconds between two looks into the folder while nothing is there.
        fsync: Whether a send returns only when the disk has the message; without it a loss of power may lose some.
    """

    path: Path
    lease: Annotated[Duration, Field(ge=0.1)] = 30.0
    poll_interval: Annotated[Duration, Field(ge=0.01)] = 0.1
    fsync: bool = True
