-- Deletes messages for good, those that are in the hands of one of these consumers.
--
-- KEYS  1 stream
-- ARGV  1 group, 2 how many consumers, then their names, then ids
-- Returns how many are deleted.
--
-- XACK alone asks for no owner: a consumer whose lease has ended would take the message from its successor.

local stream, group = KEYS[1], ARGV[1]
local owners = {}
local ids = 3 + tonumber(ARGV[2])
for i = 3, ids - 1 do
  owners[ARGV[i]] = true
end

local deleted = 0
for i = ids, #ARGV do
  local pending = redis.pcall('XPENDING', stream, group, ARGV[i], ARGV[i], 1)
  if not pending.err and pending[1] and owners[pending[1][2]] then
    redis.call('XACK', stream, group, ARGV[i])
    redis.call('XDEL', stream, ARGV[i])
    deleted = deleted + 1
  end
end
return deleted
