"""Topology: what a queue needs on the broker, made by `open`."""

from __future__ import annotations

from typing import Any

from qbridge import SourceError, SourceMisconfigured
from qbridge_rabbitmq.faults import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, reply_code
from qbridge_rabbitmq.link import Channel, Link
from qbridge_rabbitmq.names import QueueNames
from qbridge_rabbitmq.options import RabbitOptions

__all__ = ["GROWN_UP", "check_version", "make_topology"]

#: Seconds after which a quorum queue survives a broker that is killed. RabbitMQ 3.10.8 and 4.3.6 were seen to lose one
#: that was 0.6 and 0.8 s old, with confirmed messages in it, and to keep one of 1.2 s.
GROWN_UP = 1.5

#: Quorum queues that let messages expire, and dead-letter them at least once, came with 3.10.
_OLDEST = (3, 10)

#: Of dead letters: each listing of them counts as a delivery, and RabbitMQ 4 drops what was delivered 20 times.
_NO_LIMIT = 2**31 - 1


def check_version(link: Link) -> None:
    """Refuse a broker that can't keep the promises.

    Raises:
        SourceMisconfigured: It is too old.
    """
    version = link.version
    if version and version < _OLDEST:
        told = ".".join(map(str, version))
        raise SourceMisconfigured(
            f"RabbitMQ at {link.where} is version {told}; the queue needs 3.10 or later: upgrade it"
        )


async def make_topology(link: Link, names: QueueNames, options: RabbitOptions) -> bool:
    """Make what is missing of a queue; check the rest. Return whether a queue is so young that a kill may take it.

    Raises:
        SourceMisconfigured: Something is there and is otherwise than configured, or may not be made.
        SourceUnavailable: The connection is lost.
    """
    is_quorum = options.queue_type == "quorum"
    is_young = is_quorum and not (await _is_there(link, names.work) and await _is_there(link, names.dead))
    if options.declare:
        await _declare(link, names.work, _work_arguments(names, options))
    else:
        await _find(link, names.work, "declare is false")
    await _declare(link, names.dead, {"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT} if is_quorum else {})
    await _declare(link, names.delays, {"x-max-length": 0})
    channel = await link.channel()
    try:
        await channel.call(
            "exchange_declare", names.delays, exchange_type="direct", durable=True, doing="making an exchange"
        )
        if options.exchange is not None:
            await _bind(channel, names.work, options.exchange, options.routing_key)
    except SourceError as fault:
        raise _explained(channel, fault, f"the exchange {names.delays!r} can't be made") from fault
    finally:
        await channel.close()
    return is_young


async def _is_there(link: Link, queue: str) -> bool:
    channel = await link.channel()
    try:
        await channel.call("queue_declare", queue, passive=True, doing=f"looking for queue {queue!r}")
    except SourceError:
        if channel.cause is None:
            raise
        return reply_code(channel.cause) != NOT_FOUND
    finally:
        await channel.close()
    return True


def _work_arguments(names: QueueNames, options: RabbitOptions) -> dict[str, Any]:
    # What the broker gives up by itself goes where a person will look for it.
    arguments: dict[str, Any] = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": names.dead}
    if options.queue_type == "quorum":
        arguments |= {
            "x-queue-type": "quorum",
            "x-delivery-limit": options.delivery_limit,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    return arguments | options.arguments


async def _declare(link: Link, queue: str, arguments: dict[str, Any]) -> None:
    channel = await link.channel()  # of its own, as a refusal closes it
    try:
        await channel.call(
            "queue_declare", queue, durable=True, arguments=arguments, doing=f"declaring queue {queue!r}"
        )
    except SourceError as fault:
        if channel.cause is not None and reply_code(channel.cause) == ACCESS_REFUSED:
            await _find(link, queue, "the user may not make it")
            return
        raise _explained(channel, fault, f"queue {queue!r} is there with other properties than configured") from fault
    finally:
        await channel.close()


async def _find(link: Link, queue: str, why: str) -> None:
    channel = await link.channel()
    try:
        await channel.call("queue_declare", queue, passive=True, doing=f"looking for queue {queue!r}")
    except SourceError as fault:
        if channel.cause is not None and reply_code(channel.cause) in {NOT_FOUND, ACCESS_REFUSED}:
            raise SourceMisconfigured(
                f"RabbitMQ at {link.where}: there is no queue {queue!r} for this user, and {why}: make it, or allow it"
            ) from fault
        raise
    finally:
        await channel.close()


async def _bind(channel: Channel, queue: str, exchange: str, routing_key: str) -> None:
    try:
        await channel.call("queue_bind", queue, exchange, routing_key, doing="binding the queue")
    except SourceError as fault:
        if channel.cause is not None and reply_code(channel.cause) == NOT_FOUND:
            raise SourceMisconfigured(
                f"RabbitMQ at {channel.link.where}: there is no exchange {exchange!r} to bind queue {queue!r} to: "
                "make it, or correct `exchange`"
            ) from fault
        raise


def _explained(channel: Channel, fault: SourceError, what: str) -> SourceError:
    """Return the error for a refusal: the broker's text names the argument, what it is and what was asked for."""
    if channel.cause is None or reply_code(channel.cause) != PRECONDITION_FAILED:
        return fault
    text = str(getattr(channel.cause, "reply_text", ""))
    return SourceMisconfigured(
        f"RabbitMQ at {channel.link.where}: {what}: {text} (change the options, delete the queue when it is empty, "
        "or take it as it is with declare: false)"
    )
