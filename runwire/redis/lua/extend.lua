-- Renews leases, also those that have run out where nobody has claimed the topic since.
--
-- KEYS  heads
-- ARGV  1 prefix, 2 lease, then topic, attempt and token of each
-- Returns for each 'held', 'woken' or 'lost'.

local prefix, lease = ARGV[1], tonumber(ARGV[2])

local states, touched = {}, {}
for i, key in ipairs(KEYS) do
  local topic, attempt, token = ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  local head = read_head(key)
  if head and head.leased == '1' and head.attempt == attempt and head.token == token then
    if not touched[head.queue] then
      touch_lanes(prefix, head.queue)
      touched[head.queue] = true
    end
    local before, was_lease, was_overdue = lane_of(prefix, head), head.lease, head.overdue
    hold(head, lease)
    local after = lane_of(prefix, head)
    if after ~= before or was_lease ~= head.lease or was_overdue ~= '0' then
      redis.call('HSET', key, 'lease', head.lease, 'suspect', head.suspect, 'overdue', '0')
    end
    if after ~= before then
      redis.call('ZREM', before, topic)
    end
    redis.call('ZADD', after, digits(now + lease), topic)
    states[i] = head.woken == '1' and 'woken' or 'held'
  else
    states[i] = 'lost'
  end
end
return states
