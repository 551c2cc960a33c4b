-- Count what is in the queue.
--
-- ARGV: the us before which no lapsed lease is taken away.
-- Returns: ready, delayed, in flight, dead; us that the next ready message has waited (-1: unknown); its body, where
-- that is unknown.
local listed = redis.call('LLEN', READY) + redis.call('LLEN', ARRIVED)
local due = redis.call('ZCOUNT', DUE, '-inf', whole(now))
local lapsed = 0
if now >= tonumber(ARGV[1]) then
  lapsed = redis.call('ZCOUNT', LEASES, '-inf', whole(now))
end
local reply = {
  listed + due + lapsed,
  redis.call('ZCARD', DUE) - due,
  redis.call('ZCARD', LEASES) - lapsed,
  redis.call('ZCARD', DEAD),
  0,
}

local body
if due > 0 then
  local head = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
  local id, _, _, sent = read_mark(head[1])
  if sent ~= '0' then
    reply[5] = now - tonumber(head[2])
    return reply
  end
  body = redis.call('HGET', BODIES, id)
elseif lapsed > 0 then
  body = redis.call('HGET', BODIES, (claimed(redis.call('ZRANGE', LEASES, 0, 0)[1])))
elseif listed > 0 then
  body = redis.call('LINDEX', ARRIVED, -1) or redis.call('LINDEX', READY, -1)
end
if body then
  reply[5], reply[6] = -1, body
end
return reply
