-- What is up on a board.
--
-- KEYS  1 values by name, 2 names by the time at which they come down
-- Returns {name, time and value, with a space between them} of each.

local found = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. digits(now), '+inf')) do
  found[#found + 1] = { name, redis.call('HGET', KEYS[1], name) }
end
return found
