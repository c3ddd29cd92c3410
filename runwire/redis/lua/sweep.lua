-- Takes closed topics whose retention has passed out of their lists, and removes their logs and fields. Their tombstones
-- end by their own expiry.
--
-- KEYS  1 ends
-- ARGV  1 prefix, 2 limit
-- Returns how many topics it removed.

local prefix = ARGV[1]

local removed = 0
for _, place in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', digits(now), 'LIMIT', 0, ARGV[2])) do
  local topic, epoch, names = string.match(place, '^([^%z]*)%z([^%z]*)%z(.*)$')
  local head = read_head(prefix .. 'head:' .. topic)
  -- Another epoch: a topic of that name was made since, and has its own end and its own places.
  if not head or head.epoch == epoch then
    for name in string.gmatch(names, '[^%z]+') do
      redis.call('ZREM', prefix .. 'index:' .. name, topic)
    end
    -- Not DEL, nor by expiry: freeing what is large would hold up every other command.
    redis.call('UNLINK', prefix .. 'log:' .. topic, prefix .. 'fields:' .. topic)
    if head and head.aside == '1' then
      redis.call('UNLINK', aside_of(prefix, topic, head))
    end
  end
  redis.call('ZREM', KEYS[1], place)
  removed = removed + 1
end
return removed
