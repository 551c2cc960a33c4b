"""Lost connections to a real RabbitMQ during long handlers: nothing is run twice by a worker that lives."""

from __future__ import annotations

import signal
import uuid

import pytest

from qbridge.service import ExitCode
from tests.support.cli import ServiceFolder, service
from tests.support.rabbitmq_server import RabbitServer
from tests.support.worker_process import WorkerProcess

__all__ = ["service"]

pytestmark = pytest.mark.rabbitmq

HANDLERS = """
    import asyncio
    import pathlib

    from qbridge import HandlerRegistry, TaskContext

    registry = HandlerRegistry()

    @registry.task
    async def work(number: int, context: TaskContext) -> None:
        print("started", number)
        while not pathlib.Path("go on").exists():
            await asyncio.sleep(0.01)
        print("done", number)
"""

#: As many as would make a dead letter of a message whose worker died as often.
OUTAGES = 3


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_as_many_outages_as_would_make_a_killer_cost_nothing(
    service: ServiceFolder, rabbitmq_server: RabbitServer, queue_type: str
) -> None:
    """Each closed connection gives the message back to the queue; its one run goes on, and is acknowledged."""
    queue = f"returns.{uuid.uuid4().hex}"
    service.write("shop_tasks.py", HANDLERS)
    service.write(
        "qbridge.yaml",
        f"handlers: [shop_tasks]\nqueues:\n  default: {{backend: rabbitmq, url: '{rabbitmq_server.url}', "
        f"queue: {queue}, queue_type: {queue_type}}}\nlogging: {{level: debug}}\nmax_crashes: {OUTAGES}\n",
    )
    service.send("work", 1)

    with WorkerProcess(service.path) as worker:
        worker.wait_for(lambda lines: "started 1" in lines)
        for outage in range(1, OUTAGES + 1):
            rabbitmq_server.ctl("close_all_connections", "for a test")
            worker.wait_for(
                lambda _, outage=outage: sum("its run goes on" in line for line in worker.log) == outage  # type: ignore[misc]  # one each
            )
        service.write("go on", "")
        worker.wait_for(lambda lines: "done 1" in lines)
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert ExitCode.OK == code
    assert ["started 1", "done 1"] == worker.lines
    stats = service.stats()
    assert (0, 0, 0) == (stats.ready, stats.delayed, stats.dead)
