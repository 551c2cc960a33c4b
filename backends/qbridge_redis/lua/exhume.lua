-- Make dead letters ready again, or delete them for good.
--
-- ARGV: 'redrive' or 'purge'; then either 'all', the us up to which they died ('+inf' at first) and a limit, or 'ids'
-- and ids.
-- Returns: how many; now, as the bound of the next call, so that those that die meanwhile are left alone.
local ids
if ARGV[2] == 'all' then
  ids = redis.call('ZRANGE', DEAD, '-inf', ARGV[3], 'BYSCORE', 'LIMIT', 0, tonumber(ARGV[4]))
else
  ids = {unpack(ARGV, 3)}
end

local count = 0
for i = 1, #ids do
  local id = ids[i]
  if redis.call('ZREM', DEAD, id) == 1 then
    count = count + 1
    if ARGV[1] == 'redrive' then
      local sent = string.match(redis.call('HGET', GRAVES, id) or '', '^%d+ (%d+) ') or '0'
      -- In the past, and in the order in which they died.
      redis.call('ZADD', DUE, whole(now - #ids + i), id .. ' 0 0 ' .. sent)
    else
      redis.call('HDEL', BODIES, id)
      redis.call('HDEL', ERRORS, id)
    end
    redis.call('HDEL', GRAVES, id)
  end
end
return {count, now}
