"""The Redis backend: a queue that is a plain Redis list, so that anybody may `LPUSH` onto it."""

from qbridge import Backend
from qbridge_redis.options import RedisOptions
from qbridge_redis.source import CAPABILITIES, RedisSource

__all__ = ["RedisOptions", "RedisSource", "backend"]

backend = Backend(
    name="redis",
    summary="A plain Redis list: producers LPUSH, workers claim with leases. Redis 7 or later, or Valkey.",
    options=RedisOptions,
    capabilities=CAPABILITIES,
    create=RedisSource,
    needs={"hiredis": 'pip install "qbridge[redis]"'},
    example={"url": "${REDIS_URL:-redis://localhost:6379/0}", "key": "orders", "lease": "30s"},
)
