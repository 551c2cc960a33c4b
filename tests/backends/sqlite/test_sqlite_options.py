"""The options under a queue with `backend: sqlite`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qbridge_sqlite import SqliteOptions, backend


def test_a_path_is_enough() -> None:
    """Everything but the path has a default, and the default is durable."""
    options = SqliteOptions.model_validate({"path": "./qbridge.db"})

    assert ("full", 30.0, 5.0, None, 16777216) == (
        options.synchronous,
        options.lease,
        options.busy_timeout,
        options.max_size,
        options.reserve,
    )


def test_home_is_expanded() -> None:
    """A path may begin at the user's home."""
    assert Path.home() / "q.db" == SqliteOptions.model_validate({"path": "~/q.db"}).path


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "path\n  Field required"),
        ({"path": ":memory:"}, "must name a file, as other processes have to find it .*backend: memory"),
        ({"path": ""}, "must name a file"),
        ({"path": "file:q.db?mode=memory"}, "must be a plain path, such as ./qbridge.db, not a file: URI"),
        ({"path": "a\0b"}, "no NUL characters"),
        ({"path": 5}, "path\n"),
        ({"path": "~no-such-user/q.db"}, "a user that is unknown here"),
        ({"path": "q.db", "lease": "50ms"}, "greater than or equal to 0.1"),
        ({"path": "q.db", "lease": "soon"}, "not a duration"),
        ({"path": "q.db", "synchronous": "off"}, "'full' or 'normal'"),
        ({"path": "q.db", "busy_timeout": 0}, "greater than or equal to 0.01"),
        ({"path": "q.db", "max_size": "1KiB"}, "greater than or equal to 65536"),
        ({"path": "q.db", "reserve": "much"}, "not a size"),
        ({"path": "q.db", "table": "jobs"}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_options_are_refused(given: dict[str, Any], complaint: str) -> None:
    """An option that can't work is an error before anything is opened."""
    with pytest.raises(ValidationError, match=complaint):
        SqliteOptions.model_validate(given)


def test_the_example_is_valid() -> None:
    """What the reference shows can be written as it is, and making a source of it touches no file."""
    source = backend.create("q", backend.options.model_validate(backend.example))

    assert "sqlite" == backend.name
    assert 30.0 == source.lease
    assert not Path(backend.example["path"]).exists()
