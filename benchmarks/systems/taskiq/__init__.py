"""taskiq by `taskiq worker`: on Redis lists and streams, and on RabbitMQ.

The variants of each broker are in a module of their own.
"""

from benchmarks.harness.system import System
from benchmarks.systems.taskiq.rabbitmq_variants import RABBITMQ_REQUIREMENTS, RABBITMQ_VARIANTS
from benchmarks.systems.taskiq.redis_variants import REDIS_REQUIREMENTS, REDIS_VARIANTS

SYSTEM = System(
    name="taskiq",
    distribution="taskiq",
    requirements=("taskiq==0.13.0", "uvloop==0.23.0", "orjson==3.13.0", *REDIS_REQUIREMENTS, *RABBITMQ_REQUIREMENTS),
    variants=(*REDIS_VARIANTS, *RABBITMQ_VARIANTS),
)
