-- Forgets the oldest entries whose last event is below `before`, up to a limit.
--
-- KEYS  1 head, 2 log
-- ARGV  1 before, 2 channel of live entries, 3 limit
-- Returns how many entries are gone.

local head = read_head(KEYS[1])
if not head or expired(head) or tonumber(ARGV[1]) < 1 then
  return 0
end
local first_kept = ARGV[1] .. '-0'
local oldest = redis.call('XRANGE', KEYS[2], '-', '(' .. first_kept, 'COUNT', ARGV[3] + 1)
if #oldest > tonumber(ARGV[3]) then
  first_kept = oldest[#oldest][1]
end
local gone = redis.call('XTRIM', KEYS[2], 'MINID', '=', first_kept)
if gone == 0 then
  return 0
end
oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local earliest = oldest and struct.unpack('>I8', oldest[2][2]) or head.last + 1
redis.call('HSET', KEYS[1], 'earliest', digits(earliest))
redis.call('PUBLISH', ARGV[2], '')
return gone
