-- Removes the places in indexes of topics whose tombstone is gone. All else ends by its own expiry.
--
-- KEYS  1 ends
-- ARGV  1 prefix, 2 limit
-- Returns how many topics it looked at.

local prefix = ARGV[1]

local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', digits(now), 'LIMIT', 0, ARGV[2])
for _, place in ipairs(ended) do
  local topic, names = string.match(place, '^([^%z]*)%z(.*)$')
  -- A topic of that name that was made since has its own end.
  if redis.call('EXISTS', prefix .. 'head:' .. topic) == 0 then
    for name in string.gmatch(names, '[^%z]+') do
      redis.call('ZREM', prefix .. 'index:' .. name, topic)
    end
  end
  redis.call('ZREM', KEYS[1], place)
end
return #ended
