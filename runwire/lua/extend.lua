-- Renews leases, also those that have run out where nobody has claimed the topic since.
--
-- KEYS  heads
-- ARGV  1 prefix, 2 lease, then topic and attempt of each
-- Returns for each 'held', 'woken' or 'lost'.

local prefix, lease = ARGV[1], tonumber(ARGV[2])

local states = {}
for i, key in ipairs(KEYS) do
  local topic, attempt = ARGV[2 * i + 1], ARGV[2 * i + 2]
  local head = read_head(key)
  if head and head.leased == '1' and head.attempt == attempt then
    redis.call('ZADD', prefix .. 'due:' .. head.queue, digits(now + lease), topic)
    states[i] = head.woken == '1' and 'woken' or 'held'
  else
    states[i] = 'lost'
  end
end
return states
