-- Removes the places in indexes of topics whose tombstone is gone. All else ends by its own expiry.
--
-- KEYS  1 ends
-- ARGV  1 prefix, 2 limit
-- Returns how many topics it found ended.

local prefix = ARGV[1]

local removed = 0
for _, place in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', digits(now), 'LIMIT', 0, ARGV[2])) do
  local topic, epoch, names = string.match(place, '^([^%z]*)%z([^%z]*)%z(.*)$')
  local head = read_head(prefix .. 'head:' .. topic)
  if not head then
    for name in string.gmatch(names, '[^%z]+') do
      redis.call('ZREM', prefix .. 'index:' .. name, topic)
    end
  end
  -- Another epoch: a topic of that name was made since, and has its own end. The same: it is not gone yet.
  if not head or head.epoch ~= epoch then
    redis.call('ZREM', KEYS[1], place)
    removed = removed + 1
  end
end
return removed
