"""A bar on a terminal's standard error while tasks are sent; nothing elsewhere."""

from __future__ import annotations

import os
import stat
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Progress"]


class Progress:
    """Shows how much of the input was sent, where somebody can see it. A context manager, used once.

    Args:
        descriptor: The input; of a file it is known how much is left.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, sent: int, position: int) -> None:
        """Show that so many tasks were sent, from the first `position` bytes of the input."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=position, sent=sent)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.fields[sent]:,} sent"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            # On one terminal the ids go above the bar; elsewhere standard output is left alone.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("send", total=_size_left(self._descriptor), sent=0)
        self._bar.start()


def _size_left(descriptor: int) -> int | None:
    """Return how many bytes can be read; None if that is not known."""
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return status.st_size - os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError:
        pass
    return None
