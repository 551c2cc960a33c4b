"""Failpoints: exact stages of a message's way at which a worker kills itself with SIGKILL, when a campaign says so.

The campaign arms a stage for one process by a file; the process kills itself at the first moment in which it reaches
that stage, and writes down before that it did. `install()` is called in a worker's process only, before it runs: it
wraps the functions that a message passes. A stage costs a look for that file, and nothing else, while it isn't armed.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BACKEND", "FOLDER", "STAGES", "arm", "disarm", "fired", "install", "reached"]

#: The environment variables that tell a worker where its campaign's folder is, and which backend it uses.
FOLDER, BACKEND = "QBRIDGE_CHAOS_FOLDER", "QBRIDGE_CHAOS_BACKEND"

#: The stages, in the order in which a message passes them.
STAGES = {
    "unseen": "the broker has handed a message over, the worker has not seen it",
    "claimed": "the worker has it, and has done nothing with it",
    "handed over": "the loop thread has it, and has not started it",
    "running": "its handler has started, and has not ended",
    "ended": "its handler has ended, nobody was told",
    "settling": "a part of the settlements of one batch is done, the others are not",
    "settled": "the broker has settled a batch, the worker doesn't know it",
}


def arm(folder: Path, process: int, stage: str) -> None:
    """Let a process kill itself when it reaches a stage."""
    assert stage in STAGES, stage
    beside = folder / f"failpoint.{process}.new"
    beside.write_text(stage)
    beside.rename(folder / f"failpoint.{process}")


def disarm(folder: Path, process: int) -> None:
    """Take that back."""
    (folder / f"failpoint.{process}").unlink(missing_ok=True)


def fired(folder: Path, process: int) -> tuple[str, float] | None:
    """Return the stage at which a process has killed itself, and the monotonic second; None if it didn't."""
    path = folder / "fired"
    for line in path.read_text().splitlines() if path.exists() else ():
        pid, at, stage = line.split(maxsplit=2)
        if int(pid) == process:
            return stage, float(at)
    return None


def reached(stage: str) -> None:
    """Kill this process if the campaign has armed this stage for it."""
    if is_armed(stage):
        die(stage)


def is_armed(stage: str) -> bool:
    """Return whether this process is to kill itself at a stage."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return False
    try:
        return (Path(folder) / f"failpoint.{os.getpid()}").read_text() == stage
    except FileNotFoundError:
        return False


def die(stage: str) -> None:
    """Write down that this process kills itself at a stage, and do it."""
    path = Path(os.environ[FOLDER]) / "fired"
    os.write(
        os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
        f"{os.getpid()} {time.monotonic():.6f} {stage}\n".encode(),
    )
    os.kill(os.getpid(), signal.SIGKILL)


def install() -> None:
    """Wrap the functions of the core, and of the backend, that a message passes.

    Raises:
        AttributeError: One is not there any more: the stage must be found anew.
    """
    _before("qbridge.dispatcher", "Dispatcher.accept", "claimed", lambda _self, _intake, deliveries: deliveries)
    _before("qbridge.execution", "Executor.start", "handed over", lambda _self, jobs: jobs)
    _before("qbridge.intake", "Intake.settle", "ended", lambda _self, settlement: settlement.action == "ack")
    backend = os.environ[BACKEND]
    if backend == "sqlite":
        _after("qbridge_sqlite.database", "Database.perform", "unseen", _has_claimed)
        # Within the transaction: nothing of it may be there afterwards.
        _after("qbridge_sqlite.database", "settle", "settling", lambda outcomes: len(outcomes) > 1)
        _around_settle("qbridge_sqlite.source", "SqliteSource.settle", is_divided=False)
    elif backend == "redis":
        _before("qbridge_redis.receiver", "Receiver._read", "unseen", _brings_messages)
        _around_settle("qbridge_redis.source", "RedisSource.settle")
    elif backend == "rabbitmq":
        _before("qbridge_rabbitmq.consuming", "Consumer._take", "unseen", lambda *_: True)
        _around_settle("qbridge_rabbitmq.source", "RabbitSource.settle")


def _has_claimed(answers: Sequence[tuple[Any, Any]]) -> bool:
    return any(getattr(result, "deliveries", None) for _, result in answers)


def _brings_messages(_self: Any, _link: Any, _claim: Any, replies: Sequence[Any]) -> bool:
    return isinstance(replies[-1], list) and len(replies[-1]) > 3


def _before(module: str, path: str, stage: str, is_meant: Callable[..., object]) -> None:
    """Kill the process right before a function does anything, if its arguments are such as are meant."""
    owner, name, function = _found(module, path)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if is_armed(stage) and is_meant(*args, **kwargs):
            die(stage)
        return function(*args, **kwargs)

    setattr(owner, name, wrapped)


def _after(module: str, path: str, stage: str, is_meant: Callable[[Any], object]) -> None:
    """Kill the process right after a plain function has returned what is meant."""
    owner, name, function = _found(module, path)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if is_armed(stage) and is_meant(result):
            die(stage)
        return result

    setattr(owner, name, wrapped)


def _around_settle(module: str, path: str, *, is_divided: bool = True) -> None:
    """Kill the process after a half of a batch is settled, or after all of it is, before the core knows."""
    owner, name, settle = _found(module, path)

    @functools.wraps(settle)
    async def wrapped(self: Any, settlements: Sequence[Any]) -> Any:
        if is_divided and len(settlements) > 1 and is_armed("settling"):
            await settle(self, settlements[: len(settlements) // 2])
            die("settling")
        outcomes = await settle(self, settlements)
        if is_armed("settled"):
            die("settled")
        return outcomes

    setattr(owner, name, wrapped)


def _found(module: str, path: str) -> tuple[Any, str, Callable[..., Any]]:
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    return owner, name, getattr(owner, name)
