"""One task through a whole service on some queue: `qbridge send`, then `qbridge run` until it is done, then SIGTERM."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cli import ServiceFolder
from tests.support.worker_process import WorkerProcess

__all__ = ["WorkerEnd", "refused_worker", "serve_one_task"]

#: Seconds in which a worker leaves that can't ever work: it must not try again and again.
_PROMPT = 20.0


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker ended.

    Attributes:
        code: Its exit code.
        printed: What its handlers printed.
        told: What it and the commands before it logged or complained of.
    """

    code: int
    printed: list[str]
    told: str


def serve_one_task(folder: Path, queue: dict[str, Any], *arguments: str) -> WorkerEnd:
    """Send a task to the queue with these keys, and let a worker run it; `arguments` are the worker's."""
    service = _folder(folder, queue)
    sent = service.run("send", "greet", '"over"')
    assert 0 == sent.code, sent.err
    with WorkerProcess(folder, *arguments) as worker:
        worker.wait_for(lambda lines: "hello over 1" in lines)
        worker.signal(signal.SIGTERM)
        code = worker.wait()
    return WorkerEnd(code, worker.lines, sent.err + "\n".join(worker.log))


def refused_worker(folder: Path, queue: dict[str, Any], *arguments: str) -> WorkerEnd:
    """Run a worker that can't work on the queue with these keys, until it gives up."""
    _folder(folder, queue)
    with WorkerProcess(folder, *arguments) as worker:
        code = worker.wait(_PROMPT)
    return WorkerEnd(code, worker.lines, "\n".join(worker.log))


def _folder(path: Path, queue: dict[str, Any]) -> ServiceFolder:
    service = ServiceFolder(path)
    service.write("qbridge.yaml", json.dumps({"handlers": ["shop_tasks"], "queues": {"default": queue}}))
    return service
