"""How long a supervisor waits before it starts a worker again."""

from __future__ import annotations

from itertools import pairwise

import pytest

from qbridge.child import Restarts


def test_pauses_grow_to_a_cap() -> None:
    """While workers die young the pauses double, with jitter, up to 30 seconds; they never end."""
    restarts = Restarts()

    pauses = [restarts.pause_after(lived=1.0) for _ in range(2000)]

    assert all(0.25 * 2**index <= pause <= 0.5 * 2**index for index, pause in enumerate(pauses[:6]))
    assert all(15 <= pause <= 30 for pause in pauses[8:])
    assert 1 < len({round(pause, 6) for pause in pauses[8:20]}), "workers that die together would start together"


@pytest.mark.parametrize(("lived", "is_forgiven"), [(59.9, False), (60.0, True)])
def test_a_worker_that_lived_is_not_held_back_by_those_before(lived: float, is_forgiven: bool) -> None:
    """A death after a minute begins with the shortest pause again; one before goes on with the longer ones."""
    restarts = Restarts()
    before = [restarts.pause_after(lived=0.1) for _ in range(6)]
    assert all(earlier < later for earlier, later in pairwise(before[::2]))

    pause = restarts.pause_after(lived)

    assert is_forgiven == (pause <= 0.5)
