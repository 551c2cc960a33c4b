"""What `qbridge run` sets in its own process: how threads take turns, and how often cycles are looked for."""

from __future__ import annotations

import json

import pytest

from qbridge.interpreter import SWITCH_INTERVAL, YOUNG_OBJECTS
from tests.support.cli import ServiceFolder, service

__all__ = ["service"]

HANDLERS = """\
import gc, json, sys
from qbridge import HandlerRegistry

registry = HandlerRegistry()
{at_import}

@registry.task
async def look() -> None:
    print(json.dumps([sys.getswitchinterval(), gc.get_threshold()[0], gc.get_freeze_count() > 0, gc.isenabled()]))
"""


@pytest.mark.parametrize(
    "at_import, young",
    [("", YOUNG_OBJECTS), ("gc.set_threshold(123, 4, 5)", 123), ("gc.set_threshold(0)", 0)],
    ids=["untouched", "set", "off"],
)
def test_the_interpreter_is_set_for_a_worker(service: ServiceFolder, at_import: str, young: int) -> None:
    """Threads take turns quickly, what was imported is out of the collector's sight, a module's own setting stands."""
    service.write("shop_tasks.py", HANDLERS.format(at_import=at_import))
    service.send("look")

    ended = service.run("run", "--burst")

    switch_interval, threshold, is_frozen, is_collecting = json.loads(ended.out)
    assert pytest.approx(SWITCH_INTERVAL) == switch_interval
    assert (young, True, True) == (threshold, is_frozen, is_collecting)
