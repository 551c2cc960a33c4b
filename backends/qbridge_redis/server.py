"""What `open` asks a server about itself, and when a queue must not live there."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

from qbridge import SourceMisconfigured, SourceUnavailable

__all__ = ["ServerState", "check_server", "parse_info", "warn_of_losses"]

log = logging.getLogger(__name__)

#: Scripts that declare themselves allowed on a full server came with 7.0; Valkey tells 7.2.4 here for good.
_OLDEST = (7, 0)


class ServerState(NamedTuple):
    """What matters of a server's INFO.

    Attributes:
        version: "7.0.15"; "" if it doesn't say.
        role: "master" or "slave"; "" if it doesn't say.
        loading: It is still reading its data from disk.
        max_memory: Bytes that it may use; 0 is no limit.
        eviction_policy: What it does when these are used; "" if it doesn't say.
        append_only: Whether it keeps a log of every write; None if it doesn't say.
        uptime: Seconds since it was started; None if it doesn't say.
        run_id: Names its present run, from its start to its end; "" if it doesn't say.
    """

    version: str
    role: str
    loading: bool
    max_memory: int
    eviction_policy: str
    append_only: bool | None
    uptime: float | None
    run_id: str


def parse_info(text: str) -> ServerState:
    """Return what matters of the text that INFO replies; whatever a managed server leaves out is unknown."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    uptime = fields.get("uptime_in_seconds", "")
    append_only = fields.get("aof_enabled")
    return ServerState(
        version=fields.get("redis_version", ""),
        role=fields.get("role", ""),
        loading=fields.get("loading") == "1",
        max_memory=int(fields.get("maxmemory", "0") or 0),
        eviction_policy=fields.get("maxmemory_policy", ""),
        append_only=None if append_only is None else append_only == "1",
        uptime=float(uptime) if uptime.isdigit() else None,
        run_id=fields.get("run_id", ""),
    )


def check_server(state: ServerState, where: str, *, unsafe_eviction: bool) -> None:
    """Refuse a server on which a queue would not be safe.

    Raises:
        SourceUnavailable: It is loading, or a replica; both may pass.
        SourceMisconfigured: It is too old, or may evict keys that have no expiry.
    """
    numbers = re.match(r"(\d+)\.(\d+)", state.version)
    if numbers and (int(numbers[1]), int(numbers[2])) < _OLDEST:
        raise SourceMisconfigured(
            f"Redis at {where} is version {state.version}; the queue needs 7.0 or later, or Valkey: upgrade it"
        )
    if state.loading:
        raise SourceUnavailable(f"Redis at {where} is loading its data")
    if state.role == "slave":
        raise SourceUnavailable(f"Redis at {where} is a read-only replica")
    # No key of ours has an expiry, so the volatile-* policies can't touch one.
    if state.max_memory and state.eviction_policy.startswith("allkeys-") and not unsafe_eviction:
        raise SourceMisconfigured(
            f"Redis at {where} has maxmemory-policy {state.eviction_policy}: when its memory is full, it deletes "
            "waiting messages; set it to noeviction, or accept the loss with unsafe_eviction: true"
        )


def warn_of_losses(state: ServerState, where: str, queue: str) -> None:
    """Log what a person should know of a server that is fit to be used, but forgets."""
    if state.append_only is False:
        log.warning(
            "redis keeps no append-only file: messages are lost when it stops; set appendonly yes",
            extra={"queue": queue, "url": where},
        )
