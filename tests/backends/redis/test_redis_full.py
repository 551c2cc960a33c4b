"""A service on a Redis server whose memory is full: it takes nothing more, and workers drain it all the same."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from qbridge import QBridge, SourceFull, TaskMessage, load_config
from tests.support.cli import ServiceFolder
from tests.support.redis_server import RedisServer
from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.redis

#: Tasks of 20 kB each, of which the server has room for half.
COUNT = 300

#: Of ten tasks one fails at first, one is refused for good, and one sends another, which needs room.
HANDLERS = """
    from qbridge import HandlerRegistry, Reject, RetryPolicy, TaskContext

    registry = HandlerRegistry()
    soon = RetryPolicy(max_attempts=1000, backoff="constant", base=0.2)

    @registry.task(retry=soon)
    async def work(number: int, ballast: str, context: TaskContext) -> None:
        if number % 10 == 0 and context.attempt == 1:
            raise ValueError("not yet")
        if number % 10 == 1:
            raise Reject("never")
        if number % 10 == 2:
            await context.send("follow", number)
        print("done", number)

    @registry.task
    async def follow(number: int) -> None:
        print("followed", number)
"""


async def test_a_service_drains_a_full_server(own_server: RedisServer, tmp_path: Path) -> None:
    """Senders get SourceFull with the way out; `qbridge run`, started then, brings every task to its end, and sending
    works again.
    """
    service = ServiceFolder(tmp_path)
    service.write("shop_tasks.py", HANDLERS)
    keys = {"backend": "redis", "url": own_server.url}
    service.write("qbridge.yaml", json.dumps({"handlers": ["shop_tasks"], "queues": {"default": keys}}))
    room = int(own_server.info("memory")["used_memory"]) + 3 * 2**20
    async with QBridge.from_config(None, load_config(tmp_path / "qbridge.yaml")) as bridge:
        await bridge.send_many([TaskMessage(task="work", args=[number, "x" * 20_000]) for number in range(COUNT)])
        own_server.cli("CONFIG", "SET", "maxmemory", room)
        with pytest.raises(SourceFull, match="its memory is full: raise its maxmemory, or let workers drain it"):
            await bridge.send("follow", 7)
    refused = await asyncio.to_thread(service.run, "send", "follow", "7")
    own_server.cli("SCRIPT", "FLUSH")  # nothing helps that was there before

    def ended(lines: list[str]) -> bool:
        return len(lines) >= COUNT

    with WorkerProcess(tmp_path) as worker:
        await asyncio.to_thread(worker.wait_for, ended)
        sent = await asyncio.to_thread(service.run, "send", "follow", "7")
        await asyncio.to_thread(worker.wait_for, lambda lines: "followed 7" in lines)
        worker.signal(signal.SIGTERM)
        code = await asyncio.to_thread(worker.wait)
    stats = await asyncio.to_thread(service.stats)

    assert (1, True) == (refused.code, "its memory is full" in refused.err)
    assert [f"done {number}" for number in range(COUNT) if number % 10 != 1] == sorted(
        (line for line in worker.lines if line.startswith("done")), key=lambda line: int(line.split()[1])
    )
    assert {f"followed {number}" for number in range(2, COUNT, 10)} <= set(worker.lines)
    assert (0, 0) == (sent.code, code)
    assert (0, 0, 0, COUNT // 10) == (stats.ready, stats.delayed, stats.in_flight, stats.dead)
