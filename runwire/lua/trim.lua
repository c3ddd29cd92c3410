-- Forgets entries whose last event is below `before`.
--
-- KEYS  1 head, 2 log
-- ARGV  1 before, 2 channel of live entries
-- Returns how many entries are gone.

local head = read_head(KEYS[1])
if not head or expired(head) then
  return 0
end
local gone = redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[1] .. '-0')
if gone == 0 then
  return 0
end
local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local earliest = oldest and struct.unpack('>I8', oldest[2][2]) or head.last + 1
redis.call('HSET', KEYS[1], 'earliest', digits(earliest))
redis.call('PUBLISH', ARGV[2], '')
return gone
