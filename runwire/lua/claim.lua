-- Takes topics that are due, those due longest first.
--
-- KEYS  due sets of the queues
-- ARGV  1 prefix, 2 limit, 3 lease
-- Returns {now, {topic, head, losses, {name, value, ...}}, ...}.

local prefix, limit, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local ready = {}
for _, key in ipairs(KEYS) do
  local places = redis.call('ZRANGEBYSCORE', key, '-inf', digits(now), 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #places, 2 do
    ready[#ready + 1] = { key = key, topic = places[i], time = tonumber(places[i + 1]) }
  end
end
table.sort(ready, function(a, b)
  return a.time < b.time or (a.time == b.time and a.topic < b.topic)
end)

local claims = { digits(now) }
for _, place in ipairs(ready) do
  if #claims > limit then
    break
  end
  local head_key = prefix .. 'head:' .. place.topic
  local head = read_head(head_key)
  if head then
    head.attempt = head.attempt + 1
    if head.leased == '1' then
      head.losses = head.losses + 1
    end
    redis.call(
      'HSET', head_key, 'attempt', digits(head.attempt), 'losses', digits(head.losses), 'leased', '1', 'woken', '0'
    )
    redis.call('ZADD', place.key, digits(now + lease), place.topic)
    local fields = redis.call('HGETALL', prefix .. 'fields:' .. place.topic)
    claims[#claims + 1] = { place.topic, visible(head), head.losses, fields }
  else
    redis.call('ZREM', place.key, place.topic)
  end
end
return claims
