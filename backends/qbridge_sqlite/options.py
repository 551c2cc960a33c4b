"""SqliteOptions: what stands under a queue with `backend: sqlite`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from qbridge import BackendOptions, Duration, Size

__all__ = ["SqliteOptions"]


def _check_names_a_file(given: object) -> object:
    text = str(given) if isinstance(given, (str, Path)) else given
    if text in {"", ":memory:"}:
        raise ValueError("must name a file, as other processes have to find it (in this process only: backend: memory)")
    if isinstance(text, str) and text.startswith("file:"):
        raise ValueError("must be a plain path, such as ./qbridge.db, not a file: URI")
    if isinstance(text, str) and "://" in text:  # it may hold a password, which a path would tell in every error
        raise ValueError("must be a plain path, such as ./qbridge.db, not a URL")
    if isinstance(text, str) and "\0" in text:
        raise ValueError("must be a path, which has no NUL characters")
    return given


def _expand_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as exc:
        raise ValueError("begins with ~ and a user that is unknown here") from exc


class SqliteOptions(BackendOptions):
    """Options of a queue in an SQLite file. Several queues may share one file; each sees its own messages only.

    Attributes:
        path: The file; made if it is missing, in a folder that exists. A relative path starts at the working
            directory, `~` is the user's home. It must be on a disk of this machine: SQLite's write-ahead log doesn't
            work over a network.
        lease: Seconds after which a delivery without a sign of life is handed to somebody else; at least 0.1.
        synchronous: `full` survives a loss of power as soon as `send` returned; `normal` is faster and may lose the
            last moments then. Both survive the death of any process.
        busy_timeout: Seconds to wait for another process that is writing, before `SourceUnavailable`.
        max_size: Bytes that the file's messages may take, those of all its queues and its dead letters included; a
            send beyond it is refused. None leaves it to the disk.
        reserve: Bytes that a send must leave free on the disk; a send beyond it is refused. On a disk that is really
            full, workers could not empty the queue: to take a message out, SQLite first writes more.
    """

    path: Annotated[Path, BeforeValidator(_check_names_a_file), AfterValidator(_expand_home)]
    lease: Annotated[Duration, Field(ge=0.1)] = 30.0
    synchronous: Literal["full", "normal"] = "full"
    busy_timeout: Annotated[Duration, Field(ge=0.01, le=3600)] = 5.0
    max_size: Annotated[Size, Field(ge=65536)] | None = None
    reserve: Size = 16 * 2**20
