-- What every script begins with. Time is the server's, in microseconds, asked for once.
local READY, ARRIVED, DUE, LEASES, BODIES, MARKS, ERRORS, DEAD, GRAVES = unpack(KEYS)

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- Lua would write a number of 16 digits as 1.7e+15.
local function whole(number)
  return string.format('%.0f', number)
end

-- A mark is "id attempts crashes sent": what is known of a message besides its body and its errors. `sent` is the
-- microsecond of a delayed send, 0 where nobody knows.
local function read_mark(mark)
  local id, attempts, crashes, sent = string.match(mark, '^(%S+) (%d+) (%d+) (%d+)$')
  return id, tonumber(attempts), tonumber(crashes), sent
end

-- What the claim with this receipt is of. The first claim of a list's element writes no mark, to stay cheap: its
-- receipt is the message's id. The fifth value says whether there is a mark.
local function claimed(receipt)
  local mark = redis.call('HGET', MARKS, receipt)
  if mark then
    local id, attempts, crashes, sent = read_mark(mark)
    return id, attempts, crashes, sent, true
  end
  return receipt, 1, 0, '0', false
end
