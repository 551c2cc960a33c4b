"""EventHub: who listens to what the engine tells.

A listener must be quick and must not raise; one that raises is logged once and dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # ten classes, which nobody needs before somebody listens
    from qbridge.events import Event

__all__ = ["EventHub"]

log = logging.getLogger("qbridge.events")


class EventHub:
    """Hands events to those who listen. Belongs to the main thread; costs one attribute look-up when nobody listens."""

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[Event], None], ...] = ()
        #: Whether anybody listens; emitters ask before they make an event.
        self.active = False

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with each event from here on; returns the function that ends it."""
        # Not when there is something to tell: that may be that no file can be opened any more.
        import qbridge.events  # noqa: F401

        self._listeners = (*self._listeners, listener)
        self.active = True
        return lambda: self._drop(listener)

    def emit(self, event: Event) -> None:
        """Hand an event to every listener, in the order in which they subscribed."""
        for listener in self._listeners:
            try:
                listener(event)
            except KeyboardInterrupt:  # somebody at the keyboard, not the listener
                raise
            except BaseException:  # a listener must not end the worker, not even with SystemExit
                log.exception("an event listener failed and is dropped", extra={"listener": repr(listener)})
                self._drop(listener)

    def _drop(self, listener: Callable[[Event], None]) -> None:
        self._listeners = tuple(known for known in self._listeners if known is not listener)
        self.active = bool(self._listeners)
