"""The RabbitMQ backend: a queue to which any AMQP client may publish."""

from qbridge import Backend
from qbridge_rabbitmq.options import RabbitOptions
from qbridge_rabbitmq.source import CAPABILITIES, RabbitSource

__all__ = ["RabbitOptions", "RabbitSource", "backend"]

backend = Backend(
    name="rabbitmq",
    summary="A quorum or classic queue of RabbitMQ 3.10 or later; anybody may publish to it.",
    options=RabbitOptions,
    capabilities=CAPABILITIES,
    create=RabbitSource,
    needs={"pika": 'pip install "qbridge[rabbitmq]"'},
    example={"url": "${AMQP_URL:-amqp://guest:guest@localhost/}", "queue": "pictures"},
)
