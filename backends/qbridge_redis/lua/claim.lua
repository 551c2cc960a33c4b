-- Claim up to `limit` messages: those that are due first, then those that a blocked worker moved, then the list's.
--
-- ARGV: token; limit (at most 500); lease in us; the latest us at which the caller still listens; the us before which
-- no lapsed lease is taken away.
-- Returns: now; us until something falls due or lapses (-1: nothing will, 0: look again at once); how many are
-- redelivered (-1: refused, too late); a mark and a body for each of these; a body for each other one.
-- The i-th message claimed has the receipt token .. (1000 + i).
local token, limit, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local not_after, reap_from = tonumber(ARGV[4]), tonumber(ARGV[5])

-- Bytes after which no further message is claimed, so that neither the server nor the worker chokes on one reply.
local BUDGET = 4 * 1024 * 1024
local REAP = 100

-- A claim that was stuck on its way, and whose caller has given it up, must not claim.
if now > not_after then
  return {now, -1, -1}
end

if now >= reap_from then
  local lapsed = redis.call('ZRANGE', LEASES, '-inf', whole(now), 'BYSCORE', 'LIMIT', 0, REAP, 'WITHSCORES')
  for i = 1, #lapsed, 2 do
    local id, attempts, crashes, sent, marked = claimed(lapsed[i])
    redis.call('ZREM', LEASES, lapsed[i])
    if marked then
      redis.call('HDEL', MARKS, lapsed[i])
    end
    redis.call('ZADD', DUE, lapsed[i + 1], id .. ' ' .. attempts .. ' ' .. (crashes + 1) .. ' ' .. sent)
  end
end

local reply, size = {now, -1, 0}, 3
local bodies, leases, width = {}, {}, 0
local taken, bytes, largest = 0, 0, 0
local expiry = whole(now + lease)

local due = redis.call('ZRANGE', DUE, '-inf', whole(now), 'BYSCORE', 'LIMIT', 0, limit)
for i = 1, #due do
  if bytes >= BUDGET then
    break
  end
  local id, attempts, crashes, sent = read_mark(due[i])
  local body = redis.call('HGET', BODIES, id)
  redis.call('ZREM', DUE, due[i])
  if body then
    taken = taken + 1
    bytes = bytes + #body
    local receipt = token .. (1000 + taken)
    local mark = id .. ' ' .. (attempts + 1) .. ' ' .. crashes .. ' ' .. sent
    redis.call('HSET', MARKS, receipt, mark)
    redis.call('ZADD', LEASES, expiry, receipt)
    reply[size + 1], reply[size + 2] = mark, body
    size = size + 2
  end
end
reply[3] = taken

local wrong_type
local function take(list)
  -- The first few tell how large messages are; then as many at once as the budget allows.
  local chunk = 8
  while taken < limit and bytes < BUDGET do
    local asked = math.min(chunk, limit - taken)
    -- pcall: a list of the wrong type must not end the script after something has been taken.
    local got = redis.pcall('RPOP', list, asked)
    if not got then
      return
    end
    if got.err then
      wrong_type = got
      return
    end
    for i = 1, #got do
      local body = got[i]
      taken = taken + 1
      bytes = bytes + #body
      if #body > largest then
        largest = #body
      end
      local receipt = token .. (1000 + taken)
      size = size + 1
      reply[size] = body
      bodies[width + 1], bodies[width + 2] = receipt, body
      leases[width + 1], leases[width + 2] = expiry, receipt
      width = width + 2
    end
    if #got < asked then
      return
    end
    chunk = math.max(1, math.floor((BUDGET - bytes) / math.max(1, largest)))
  end
end

take(ARRIVED)
take(READY)
if width > 0 then
  redis.call('HSET', BODIES, unpack(bodies))
  redis.call('ZADD', LEASES, unpack(leases))
elseif wrong_type and taken == 0 then
  return wrong_type
end

if taken == limit or bytes >= BUDGET then
  reply[2] = 0
else
  local next_due = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
  local next_lapse = redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')[2]
  local at = math.huge
  if next_due then
    at = tonumber(next_due)
  end
  if next_lapse then
    at = math.min(at, math.max(tonumber(next_lapse), reap_from))
  end
  if at < math.huge then
    reply[2] = math.max(0, at - now)
  end
end
return reply
