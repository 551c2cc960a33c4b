-- List dead letters in the order in which they died.
--
-- ARGV: either 'page', an id to go on after ('' or an unknown one: the oldest) and a limit, or 'ids' and ids.
-- Returns: for each, its id, the us at which it died, "attempts sent reason", its error history and its body.
local found = {}
if ARGV[1] == 'page' then
  local rank = redis.call('ZRANK', DEAD, ARGV[2])
  local from = rank and rank + 1 or 0
  found = redis.call('ZRANGE', DEAD, from, from + tonumber(ARGV[3]) - 1, 'WITHSCORES')
else
  for i = 2, #ARGV do
    local died = redis.call('ZSCORE', DEAD, ARGV[i])
    if died then
      found[#found + 1] = ARGV[i]
      found[#found + 1] = died
    end
  end
end

local reply, size = {}, 0
for i = 1, #found, 2 do
  local id = found[i]
  reply[size + 1] = id
  reply[size + 2] = found[i + 1]
  reply[size + 3] = redis.call('HGET', GRAVES, id) or '0 0 '
  reply[size + 4] = redis.call('HGET', ERRORS, id) or ''
  reply[size + 5] = redis.call('HGET', BODIES, id) or ''
  size = size + 5
end
return reply
