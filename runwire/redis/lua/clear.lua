-- Forgets a topic, as if it had never been.
--
-- KEYS  1 head, 2 log, 3 fields
-- ARGV  1 prefix, 2 topic

local prefix, topic = ARGV[1], ARGV[2]

local head = read_head(KEYS[1])
if not head then
  return 0
end
local names = redis.call('HGET', KEYS[1], 'indexes') or ''
for name in string.gmatch(names, '[^%z]+') do
  redis.call('ZREM', prefix .. 'index:' .. name, topic)
end
for _, kind in ipairs({ 'due:', 'suspects:' }) do
  unplace(lane(prefix, kind, head.queue, tenant_of(topic)), topic)
  redis.call('ZREM', prefix .. kind .. head.queue, topic) -- where the version before had it
end
redis.call('ZREM', prefix .. 'ends', end_place(topic, head, names))
if head.aside == '1' then
  redis.call('UNLINK', aside_of(prefix, topic, head))
end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
redis.call('PUBLISH', prefix .. 'live:' .. topic, '')
return 1
