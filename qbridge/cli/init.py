"""`qbridge init`: a service that runs as it is, to be changed from there."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from qbridge.cli.ends import CommandFailed
from qbridge.cli.flags import DebugFlag, flag
from qbridge.cli.output import print_line

__all__ = ["EXAMPLES", "init"]

EXAMPLES = (
    "qbridge init",
    "qbridge init shop && cd shop && qbridge check",
)

_YAML = """\
# A qbridge service: `qbridge run` takes tasks from the queues below and runs the handlers of these modules.
# `qbridge check` tells what is wrong in this file, `qbridge schema` all that can stand in it. An editor completes it
# after `qbridge schema > qbridge.schema.json`, and with this as the file's first line:
#   "# yaml-language-server: $schema=qbridge.schema.json"

# Python modules, looked for beside this file first.
handlers: [tasks]

queues:
  # The name is yours; `qbridge send` takes the queue called default unless --queue says otherwise.
  default:
    # sqlite keeps its tasks in one file and needs no server. `qbridge backends` lists the others.
    backend: sqlite
    # Relative to the working directory: the folder in which qbridge is started, not the one of this file.
    path: ./qbridge.db

# A handler that fails is tried again: after about 1 s, 2 s, 4 s and 8 s. Then its task becomes a dead letter, which
# `qbridge dead list default` shows and `qbridge dead retry` brings back.
retry: {max_attempts: 5, backoff: exponential, base: 1s, cap: 5m}

# So many handlers run at once.
loops:
  default: {concurrency: 100}

# What still runs when the service is stopped may finish within the grace; what is left then goes back to its queue.
shutdown: {grace: 25s}

logging: {level: info, format: console}
"""

_TASKS = '''\
"""The tasks of this service. A task is run at least once: after a crash it may run again."""

import asyncio

from qbridge import HandlerRegistry, TaskContext

registry = HandlerRegistry()


@registry.task
async def hello(name: str) -> None:
    """Greet somebody: qbridge send hello '{"name": "world"}'.

    Arguments are checked by their annotations before this is called.
    """
    await asyncio.sleep(0.1)  # a coroutine may wait; hundreds of others run meanwhile
    print(f"hello, {name}")


@registry.task(timeout=10)
def count_words(text: str, context: TaskContext) -> None:
    """Count words: qbridge send count_words '["to be or not to be"]'.

    A plain function runs in a thread, so it may compute. A TaskContext is filled in: it tells about the task.
    """
    print(f"{len(text.split())} words (attempt {context.attempt} of task {context.id})")
'''


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; made if it is missing.")] = Path(),
    force: Annotated[bool, flag("--force", help="Overwrite files that are there.")] = False,
    debug: DebugFlag = False,
) -> None:
    """Write a starter service that runs as it is.

    It is qbridge.yaml, with a queue in a file, and tasks.py, with two handlers. Nothing is overwritten without --force.
    """
    files = {folder / "qbridge.yaml": _YAML, folder / "tasks.py": _TASKS}
    present = [str(path) for path in files if path.exists()]
    if present and not force:
        raise CommandFailed(*(f"{path} is there already; --force overwrites it" for path in present))
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    print_line(f"wrote {' and '.join(map(str, files))}")
    print_line("next:")
    if folder != Path():
        print_line(f"  cd {shlex.quote(str(folder))}")
    for command in ("qbridge check", """qbridge send hello '{"name": "world"}'""", "qbridge run --burst"):
        print_line(f"  {command}")
