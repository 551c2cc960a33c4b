"""What becomes of messages for a delay queue that confirms nothing any more."""

from __future__ import annotations

import asyncio
import logging

import pytest

from qbridge import SourceUnavailable
from qbridge_rabbitmq import RabbitOptions, RabbitSource
from qbridge_rabbitmq.silences import Silences
from tests.backends.rabbitmq.steps import claim, outgoing
from tests.support.rabbitmq_server import RabbitServer

_STEP = 500  # milliseconds
_NEXT_STEP = 700


_SILENCED = 'sys:suspend({list_to_atom("%2F_NAME"), node()}).'
_ENDED = 'ra:stop_server(quorum_queues, {list_to_atom("%2F_NAME"), node()}).'


@pytest.mark.rabbitmq
@pytest.mark.parametrize(("how", "what"), [(_SILENCED, "confirmed nothing"), (_ENDED, "refuses")])
async def test_a_broken_delay_queue_is_passed_over(
    rabbitmq_server: RabbitServer, queue: str, caplog: pytest.LogCaptureFixture, how: str, what: str
) -> None:
    """A retry that a delay queue doesn't take fails twice, over two connections; the third takes a longer step."""
    options = RabbitOptions.model_validate({"url": rabbitmq_server.url, "command_timeout": 3})
    source = RabbitSource(queue, options)
    broken = f"{queue}.delay.{_STEP}"
    try:
        await source.open()
        await source.send(outgoing(b"first", delay=_STEP / 1000))
        await claim(source, 1)
        await asyncio.to_thread(rabbitmq_server.ctl, "eval", how.replace("NAME", broken))
        for _ in range(2):
            await source.close()  # which brings the message back
            await source.open()
            [delivery] = await claim(source, 1)
            with pytest.raises(SourceUnavailable, match=what):
                await source.settle([delivery.retry(_STEP / 1000)])
        await source.close()
        await source.open()
        [delivery] = await claim(source, 1)
        began = asyncio.get_running_loop().time()

        await source.settle([delivery.retry(_STEP / 1000)])
        [again] = await claim(source, 1)

        assert asyncio.get_running_loop().time() - began >= _NEXT_STEP / 1000
        assert b"first" == again.body
        await source.settle([again.ack()])
    finally:
        await source.close()
    [told] = [
        record for record in caplog.records if record.levelno == logging.ERROR and hasattr(record, "rabbitmq_queue")
    ]
    assert broken == told.rabbitmq_queue


def test_a_single_failure_is_forgiven() -> None:
    """A broker that hung once has no broken queue; nor has one whose queue has confirmed since."""
    silences = Silences("q.delay.")

    silences.note({"q.delay.1", "q.delay.2"})
    assert "q.delay.1" not in silences
    silences.end(["q.delay.1", "q"])
    silences.note({"q.delay.1", "q.delay.2"})

    assert "q.delay.1" not in silences
    assert "q.delay.2" in silences


def test_only_delay_queues_are_remembered() -> None:
    """Others may be full, and there is none to take their place."""
    silences = Silences("q.delay.")

    for _ in range(3):
        silences.note({"q", "q.dead"})

    assert not silences


def test_a_broken_queue_is_tried_again_after_ten_minutes() -> None:
    """Somebody may have deleted it. Once more is enough then to know that nobody has."""
    now = 0.0
    silences = Silences("q.delay.", clock=lambda: now)
    silences.note({"q.delay.1"})
    silences.note({"q.delay.1"})

    now = 599.0
    assert "q.delay.1" in silences
    now = 600.0
    assert "q.delay.1" not in silences
    silences.note({"q.delay.1"})

    assert "q.delay.1" in silences
