"""Probes: whether a service answers over HTTP whether it lives and works.

Without them the server is not imported, nor the megabyte that it takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from qbridge.config import ProbesConfig

if TYPE_CHECKING:
    from qbridge.condition import Condition

__all__ = ["PERIOD", "Probes", "probes_of"]

#: Seconds between two conditions that are published.
PERIOD = 1.0


class Probes(Protocol):
    """What answers; see `qbridge.probe_server.ProbeServer`."""

    def publish(self, condition: Condition) -> None:
        """Answer by this from here on."""


@contextmanager
def probes_of(settings: ProbesConfig | None) -> Iterator[Probes | None]:
    """Answer probes until the context ends; None answers none.

    Raises:
        ConfigError: Nothing can listen there.
    """
    if settings is None:
        yield None
        return
    from qbridge.probe_server import ProbeServer

    with ProbeServer(settings) as server:
        yield server
