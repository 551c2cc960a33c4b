-- End claims.
--
-- ARGV: how many receipts of first claims are acknowledged; these; then, for every other settlement, five: action (A
-- ack, R retry, B release, D dead letter), receipt, delay in us, reason, error.
-- Returns: the positions, from 1, of those that were no longer held.
local MAX_ERRORS_KEPT = 10

local lost, acknowledged = {}, {}
local count = tonumber(ARGV[1])
if count > 0 then
  -- Asked for in one call and removed in one: a call for each, and its line in the append-only file, took more than
  -- twice the server's time (1.4 against 0.6 us for a receipt, November 2026, Redis 7.0.15).
  local held = redis.call('ZMSCORE', LEASES, unpack(ARGV, 2, count + 1))
  for i = 1, count do
    if held[i] then
      acknowledged[#acknowledged + 1] = ARGV[i + 1]
    else
      lost[#lost + 1] = i
    end
  end
  if #acknowledged > 0 then
    redis.call('ZREM', LEASES, unpack(acknowledged))
    redis.call('HDEL', BODIES, unpack(acknowledged))
  end
end

-- An error history is a row of netstrings without commas, "5:first6:second", oldest first.
local function remember(id, text)
  if text == '' then
    return
  end
  local kept = redis.call('HGET', ERRORS, id) or ''
  local starts, at = {}, 1
  while at <= #kept do
    starts[#starts + 1] = at
    local _, colon, length = string.find(kept, '^(%d+):', at)
    at = colon + tonumber(length) + 1
  end
  if #starts >= MAX_ERRORS_KEPT then
    kept = string.sub(kept, starts[#starts - MAX_ERRORS_KEPT + 2])
  end
  redis.call('HSET', ERRORS, id, kept .. #text .. ':' .. text)
end

local position = count
for i = count + 2, #ARGV, 5 do
  local action, receipt, delay, reason, text = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  position = position + 1
  if redis.call('ZREM', LEASES, receipt) == 0 then
    lost[#lost + 1] = position
  else
    local id, attempts, crashes, sent, marked = claimed(receipt)
    if marked then
      redis.call('HDEL', MARKS, receipt)
    end
    if action == 'A' then
      redis.call('HDEL', BODIES, id)
      redis.call('HDEL', ERRORS, id)
    elseif action == 'R' then
      remember(id, text)
      local mark = id .. ' ' .. attempts .. ' ' .. crashes .. ' ' .. sent
      redis.call('ZADD', DUE, whole(now + tonumber(delay)), mark)
    elseif action == 'B' then
      -- An id begins with the us of its first claim: what was claimed first comes back first, before what is due
      -- since. A clock set back must not put it into the future.
      local first = math.min(now, tonumber(string.sub(id, 1, 13), 16) or now)
      redis.call('ZADD', DUE, whole(first), id .. ' ' .. (attempts - 1) .. ' ' .. crashes .. ' ' .. sent)
    else
      remember(id, text)
      -- The position keeps the order of those that die in one call.
      redis.call('ZADD', DEAD, whole(now + position), id)
      redis.call('HSET', GRAVES, id, attempts .. ' ' .. sent .. ' ' .. reason)
    end
  end
end
return lost
