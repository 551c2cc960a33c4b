"""Makes a worker give up dead connections sooner, and come again sooner, than it does by default.

A worker imports this module as one of its handlers, in its own process and before it opens any source. Without it a
campaign would spend most of its time waiting for limits of half a minute.
"""

from __future__ import annotations

import qbridge.intake
from qbridge import HandlerRegistry

__all__ = ["LIMITS", "registry"]

#: No handlers: a module of them is what a worker can be told to import.
registry = HandlerRegistry()

#: Seconds, by the names of constants of `qbridge.intake`.
LIMITS = {"RECEIVE_MARGIN": 2.0, "CALL_TIMEOUT": 4.0, "RECONNECT_CAP": 0.5}

for _name, _seconds in LIMITS.items():
    assert isinstance(getattr(qbridge.intake, _name), float), _name
    setattr(qbridge.intake, _name, _seconds)
