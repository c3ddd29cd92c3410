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
    local before, was_lease, was_overdue = lane_of(prefix, head, topic), head.lease, head.overdue
    if not touched[before.key] then
      touch_lanes(prefix, head.queue, before.tenant)
      touched[before.key] = true
    end
    hold(head, lease)
    local after = lane_of(prefix, head, topic)
    if after.key ~= before.key or was_lease ~= head.lease or was_overdue ~= '0' then
      redis.call('HSET', key, 'lease', head.lease, 'suspect', head.suspect, 'overdue', '0')
    end
    if after.key ~= before.key then
      unplace(before, topic)
    end
    place(after, topic, now + lease)
    states[i] = head.woken == '1' and 'woken' or 'held'
  else
    states[i] = 'lost'
  end
end
return states
