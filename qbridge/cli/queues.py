"""`qbridge queues`: what is in each queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qbridge.bridge import QBridge
from qbridge.cli.ends import exit_code_of, tell, warn
from qbridge.cli.flags import ConfigFile, DebugFlag, Format, FormatFlag, Settings, overrides_given
from qbridge.cli.operating import bounded, opened
from qbridge.cli.output import Column, print_json, print_table
from qbridge.cli.setting_up import read_config, why_unreachable
from qbridge.config import Config, QueueConfig
from qbridge.errors import MessageError, SourceError
from qbridge.service import ExitCode
from qbridge.source import Delivery, QueueStats
from qbridge.units import format_duration

__all__ = ["EXAMPLES", "queues"]

EXAMPLES = (
    "qbridge queues",
    "qbridge queues --format json | jq 'map(.ready) | add'",
)

_COUNTS = ("ready", "delayed", "in_flight", "dead")


def queues(
    *,
    config: ConfigFile = Path("qbridge.yaml"),
    settings: Settings,
    format: FormatFlag = Format.TABLE,
    debug: DebugFlag = False,
) -> int:
    """Count what is in the queues, ready and delayed and dead.

    Delayed messages wait for their time; those in flight are claimed by a worker and not settled. The oldest age is
    how long the next ready message has waited. If a queue's broker can't be reached, the others are shown all the
    same, and the exit code is 3.

    JSON: an array of objects with queue, backend, ready, delayed, in_flight, dead and oldest_age (seconds; 0 if
    nothing is ready, null if the broker can't tell). What could not be counted is null, and told on standard error.
    """
    service_config = read_config(config, overrides_given(settings))
    states = asyncio.run(_states(service_config))
    if format is Format.JSON:
        print_json([state.row for state in states])
        for state in states:
            if state.problem:
                write = tell if state.code else warn
                write([f"queue {state.row['queue']!r}: {state.problem}"])
    else:
        _print_table(states)
    return max((state.code for state in states), default=ExitCode.OK)


@dataclass(frozen=True, slots=True)
class _State:
    """What is known of a queue: a row of the table, why it could not be counted, and the exit code that this means."""

    row: dict[str, Any]
    problem: str = ""
    code: ExitCode = ExitCode.OK


async def _states(config: Config) -> Sequence[_State]:
    async with QBridge.from_config(None, config) as bridge:
        return await asyncio.gather(*(_state(bridge, name, queue) for name, queue in config.queues.items()))


async def _state(bridge: QBridge, name: str, queue: QueueConfig) -> _State:
    row: dict[str, Any] = {"queue": name, "backend": queue.backend, **dict.fromkeys(_COUNTS), "oldest_age": None}
    if reason := why_unreachable(queue):
        return _State(row, reason)
    try:
        async with opened(bridge, name) as source:
            stats = await bounded(source.stats(), name)
    except SourceError as exc:
        return _State(row, str(exc), exit_code_of(exc))
    row.update((count, getattr(stats, count)) for count in _COUNTS)
    row["oldest_age"] = _oldest_age(stats, queue)
    return _State(row)


def _oldest_age(stats: QueueStats, queue: QueueConfig) -> float | None:
    """Return the seconds that the next ready message has waited, by the broker's clock or by its envelope."""
    if stats.oldest_age is not None:
        return stats.oldest_age
    if not stats.ready:
        return 0.0
    if stats.oldest_body is None:
        return None
    try:
        message = queue.codec.create_codec().decode(Delivery(body=stats.oldest_body, receipt=None, message_id="?"))
    except MessageError:
        return None
    return None if message.enqueued_at is None else max(0.0, time.time() - message.enqueued_at)


def _print_table(states: Sequence[_State]) -> None:
    columns = [Column("queue"), Column("backend")]
    columns += [Column(count.replace("_", " "), is_number=True) for count in _COUNTS]
    columns.append(Column("oldest", is_number=True))
    rows = [
        [
            state.row["queue"],
            state.row["backend"],
            *("-" if state.row[count] is None else str(state.row[count]) for count in _COUNTS),
            format_duration(state.row["oldest_age"]) if state.row["ready"] and state.row["oldest_age"] else "-",
        ]
        for state in states
    ]
    if any(state.problem for state in states):
        columns.append(Column("problem"))
        rows = [[*row, state.problem] for row, state in zip(rows, states, strict=True)]
    print_table(columns, rows)
