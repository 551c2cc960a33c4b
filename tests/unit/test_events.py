"""EventHub: who is told, in which order, and what a listener that fails costs."""

from __future__ import annotations

import asyncio

import pytest

from qbridge.event_hub import EventHub
from qbridge.events import Event, SourceReady

FIRST, SECOND = SourceReady(queue="a", outage=0.0), SourceReady(queue="b", outage=1.5)


def test_listeners_are_told_in_the_order_in_which_they_came() -> None:
    """Each event reaches everybody who listens at that time."""
    hub = EventHub()
    told: list[tuple[str, Event]] = []
    hub.subscribe(lambda event: told.append(("one", event)))
    hub.subscribe(lambda event: told.append(("two", event)))

    hub.emit(FIRST)

    assert [("one", FIRST), ("two", FIRST)] == told


def test_who_has_left_is_not_told() -> None:
    """The function that `subscribe` returns ends just that subscription, and may be called twice."""
    hub = EventHub()
    one: list[Event] = []
    two: list[Event] = []
    leave = hub.subscribe(one.append)
    hub.subscribe(two.append)
    hub.emit(FIRST)

    leave()
    leave()
    hub.emit(SECOND)

    assert ([FIRST], [FIRST, SECOND]) == (one, two)


def test_it_is_known_whether_anybody_listens() -> None:
    """Emitters need not make events for nobody."""
    hub = EventHub()
    before = hub.active
    leave = hub.subscribe(lambda event: None)
    during = hub.active

    leave()

    assert (False, True, False) == (before, during, hub.active)


def test_a_listener_that_fails_is_dropped_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """The others hear that event and all later ones; the log has its traceback."""
    hub = EventHub()
    told: list[Event] = []

    def broken(event: Event) -> None:
        raise ZeroDivisionError("oops")

    hub.subscribe(broken)
    hub.subscribe(told.append)

    hub.emit(FIRST)
    hub.emit(SECOND)

    assert [FIRST, SECOND] == told
    [record] = caplog.records
    assert "an event listener failed and is dropped" == record.getMessage()
    assert "broken" in record.__dict__["listener"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


@pytest.mark.parametrize("fault", [SystemExit, GeneratorExit, asyncio.CancelledError])
def test_a_listener_can_t_end_the_worker(fault: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """What would end a thread or cancel a task is a listener's own fault like any other."""
    hub = EventHub()
    told: list[Event] = []

    def leaving(event: Event) -> None:
        raise fault

    hub.subscribe(leaving)
    hub.subscribe(told.append)

    hub.emit(FIRST)

    assert [FIRST] == told
    assert ["an event listener failed and is dropped"] == caplog.messages


def test_the_keyboard_is_no_listener() -> None:
    """Ctrl-C that arrives while a listener is told is nobody's fault, and goes where it belongs."""
    hub = EventHub()

    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    hub.subscribe(interrupted)

    with pytest.raises(KeyboardInterrupt):
        hub.emit(FIRST)


def test_a_listener_may_leave_while_it_is_told() -> None:
    """Who leaves in the middle of an event keeps nobody else from hearing it."""
    hub = EventHub()
    told: list[Event] = []
    leave = hub.subscribe(lambda event: leave())
    hub.subscribe(told.append)

    hub.emit(FIRST)
    hub.emit(SECOND)

    assert [FIRST, SECOND] == told
