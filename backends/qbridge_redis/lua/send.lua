-- Send messages of which some wait before they may be claimed.
--
-- ARGV: token; then, for each message, its delay in us and its body (at most 1000 messages).
local token = ARGV[1]
local plain = {}
for i = 2, #ARGV, 2 do
  local delay, body = tonumber(ARGV[i]), ARGV[i + 1]
  if delay > 0 then
    local id = token .. (1000 + i / 2)
    redis.call('HSET', BODIES, id, body)
    redis.call('ZADD', DUE, whole(now + delay), id .. ' 0 0 ' .. whole(now))
  else
    plain[#plain + 1] = body
  end
end
if #plain > 0 then
  redis.call('LPUSH', READY, unpack(plain))
end
return 1
