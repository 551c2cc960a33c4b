"""A worker that leaves while its broker hangs tells the truth about what it could not hand in."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from qbridge import QBridge, load_config
from tests.backends.rabbitmq.conftest import SourceFactory
from tests.backends.rabbitmq.steps import claim
from tests.support.cli import ServiceFolder
from tests.support.rabbitmq_server import RabbitServer
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.rabbitmq

HANDLERS = """
    import asyncio, pathlib
    from qbridge import HandlerRegistry

    registry = HandlerRegistry()

    @registry.task
    async def work() -> None:
        print("started")
        while not pathlib.Path("go on").exists():
            await asyncio.sleep(0.01)
        print("ended")
"""


async def test_a_worker_that_leaves_a_frozen_broker_says_what_it_abandons(
    rough_server: RabbitServer, open_source: SourceFactory, queue: str, tmp_path: Path
) -> None:
    """The socket takes the acknowledgement, the broker never does: the worker soon ends with 6, the task runs again."""
    service = ServiceFolder(tmp_path)
    service.write("shop_tasks.py", HANDLERS)
    keys = {"backend": "rabbitmq", "url": rough_server.url, "queue": queue}
    shutdown = {"grace": "1s", "cancel_grace": "0.5s", "flush": "1s"}
    settings = {"handlers": ["shop_tasks"], "queues": {"default": keys}, "shutdown": shutdown}
    service.write("qbridge.yaml", json.dumps(settings))
    async with QBridge.from_config(None, load_config(tmp_path / "qbridge.yaml")) as bridge:
        await bridge.send("work")

    with WorkerProcess(tmp_path) as worker:
        await asyncio.to_thread(worker.wait_for, lambda lines: "started" in lines)
        await asyncio.to_thread(rough_server.freeze)
        try:
            service.write("go on", "")
            await asyncio.to_thread(worker.wait_for, lambda lines: "ended" in lines)
            worker.signal(signal.SIGTERM)
            code = await asyncio.to_thread(worker.wait, 20)
        finally:
            await asyncio.to_thread(rough_server.kill)
            await asyncio.to_thread(rough_server.start)
    source = await open_source(rough_server, queue)
    [again] = await claim(source, 1)

    assert 6 == code
    assert "abandoned=1" in worker.log[-1]
    assert again.attempt == 2
