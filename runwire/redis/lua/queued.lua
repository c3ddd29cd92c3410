-- How many topics of a tenant are due.
--
-- KEYS  its lanes
-- Returns the number.

local found = 0
for _, key in ipairs(KEYS) do
  found = found + redis.call('ZCOUNT', key, '-inf', digits(now))
end
return found
