-- Renew leases.
--
-- ARGV: lease in us; receipts (at most 500).
-- Returns: the positions, from 1, of those that were no longer held.
local expiry = whole(now + tonumber(ARGV[1]))
local scores = redis.call('ZMSCORE', LEASES, unpack(ARGV, 2))
local renewed, lost = {}, {}
for i = 1, #ARGV - 1 do
  if scores[i] then
    renewed[#renewed + 1] = expiry
    renewed[#renewed + 1] = ARGV[i + 1]
  else
    lost[#lost + 1] = i
  end
end
if #renewed > 0 then
  redis.call('ZADD', LEASES, 'XX', unpack(renewed))
end
return lost
