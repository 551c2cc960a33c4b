"""What Redis and its client can do with a list of tasks, in a loop that does nothing else.

Claims keep each task and its lease in Redis until it is acknowledged, as an at-least-once queue must. One Lua call
acknowledges what the call before claimed and claims the next tasks; the loop waits for each reply.
"""

from __future__ import annotations

import json
import os
import sys
import time

import uvloop
from redis.asyncio import Redis

from benchmarks.harness.limits import Limit

LIMITS = (
    Limit(
        key="redis-claim-ack-100",
        broker="redis",
        title="claim of 100 and acknowledgement of the last 100 in one Lua call, each with a lease",
    ),
    Limit(
        key="redis-claim-ack-80",
        broker="redis",
        title="the same with 80, the mean of a claim of qbridge at concurrency 100",
    ),
    Limit(
        key="redis-push-1000", broker="redis", title="`LPUSH` of 1,000 ready envelopes a call", beside="enqueue_bulk"
    ),
)

TASKS = 200_000
PUSHED = 1_000

SCRIPT = """
local count = tonumber(ARGV[1])
if #ARGV > 3 then
  local done = {}
  for i = 4, #ARGV do
    done[i - 3] = ARGV[i]
  end
  redis.call('ZREM', KEYS[3], unpack(done))
  redis.call('HDEL', KEYS[2], unpack(done))
end
local got = redis.call('RPOP', KEYS[1], count)
if not got then
  return {}
end
local first = redis.call('INCRBY', KEYS[4], #got) - #got
local bodies, leases, reply = {}, {}, {}
for i = 1, #got do
  local id = ARGV[2] .. (first + i)
  bodies[2 * i - 1], bodies[2 * i] = id, got[i]
  leases[2 * i - 1], leases[2 * i] = ARGV[3], id
  reply[2 * i - 1], reply[2 * i] = id, got[i]
end
redis.call('HSET', KEYS[2], unpack(bodies))
redis.call('ZADD', KEYS[3], unpack(leases))
return reply
"""


def envelope(number: int) -> str:
    """Return a task as qbridge writes it."""
    told = {"v": 1, "id": f"{number:032x}", "task": "noop", "args": [number], "kwargs": {}, "headers": {}}
    return json.dumps({**told, "enqueued_at": time.time()}, separators=(",", ":"))


async def push(redis: Redis) -> tuple[int, float]:
    """Push all tasks, so many a call."""
    batches = [[envelope(number) for number in range(first, first + PUSHED)] for first in range(0, TASKS, PUSHED)]
    began = time.perf_counter()
    for batch in batches:
        await redis.lpush("queue", *batch)
    return TASKS, time.perf_counter() - began


async def claim(redis: Redis, size: int) -> tuple[int, float]:
    """Claim and acknowledge all tasks, `size` a call."""
    await push(redis)
    script = redis.register_script(SCRIPT)
    keys = ["queue", "bodies", "leases", "counter"]
    done: list[bytes] = []
    claimed = 0
    began = time.perf_counter()
    while True:
        lease = time.time_ns() // 1000 + 30_000_000
        reply = await script(keys=keys, args=[size, "worker:", lease, *done])
        if not reply:
            break
        done = reply[::2]
        claimed += len(done)
    seconds = time.perf_counter() - began
    left = await redis.zcard("leases") + await redis.hlen("bodies")
    if claimed != TASKS or left:
        raise RuntimeError(f"{claimed} of {TASKS} tasks were claimed, and {left} are left")
    return claimed, seconds


async def main(key: str) -> None:
    """Measure one limit."""
    async with Redis.from_url(os.environ["BENCH_URL"]) as redis:
        if key == "redis-push-1000":
            tasks, seconds = await push(redis)
        else:
            tasks, seconds = await claim(redis, int(key.rpartition("-")[2]))
    print(json.dumps({"tasks": tasks, "seconds": seconds}))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
