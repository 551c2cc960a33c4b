-- Send messages of which some wait before they may be claimed.
--
-- ARGV: token; then, for each message, its delay in us and its body (at most 1000 messages).
local token = ARGV[1]
local fresh = ' 0 0 ' .. whole(now)
local plain, bodies, due = {}, {}, {}
for i = 2, #ARGV, 2 do
  local delay, body = tonumber(ARGV[i]), ARGV[i + 1]
  if delay > 0 then
    local id, n = token .. (1000 + i / 2), #bodies
    bodies[n + 1], bodies[n + 2] = id, body
    due[n + 1], due[n + 2] = whole(now + delay), id .. fresh
  else
    plain[#plain + 1] = body
  end
end
if #bodies > 0 then
  redis.call('HSET', BODIES, unpack(bodies))
  redis.call('ZADD', DUE, unpack(due))
end
if #plain > 0 then
  redis.call('LPUSH', READY, unpack(plain))
end
return 1
