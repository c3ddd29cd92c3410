-- Takes topics that are due, those due longest first.
--
-- KEYS  due sets of the queues
-- ARGV  1 prefix, 2 limit, 3 lease
-- Returns {now, microseconds until the next is due ('' for nothing planned), {topic, head, losses, {name, value, ...},
-- time at which it was due}, ...}.

local prefix, limit, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local ready = due_topics(KEYS, limit)
local claims = { digits(now), '' }
for _, place in ipairs(ready) do
  local head_key = prefix .. 'head:' .. place.topic
  local head = read_head(head_key)
  if head then
    head.attempt = digits(head.attempt + 1)
    if head.leased == '1' then
      head.losses = digits(head.losses + 1)
    end
    redis.call('HSET', head_key, 'attempt', head.attempt, 'losses', head.losses, 'leased', '1', 'woken', '0')
    redis.call('ZADD', place.key, digits(now + lease), place.topic)
    local fields = redis.call('HGETALL', prefix .. 'fields:' .. place.topic)
    claims[#claims + 1] = { place.topic, visible(head), head.losses, fields, digits(place.time) }
  else
    redis.call('ZREM', place.key, place.topic)
  end
end
if #ready == 0 then
  local next_due
  for _, key in ipairs(KEYS) do
    local time = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or nil)
    next_due = time and math.min(time, next_due or time) or next_due
  end
  claims[2] = next_due and digits(next_due - now) or ''
end
return claims
