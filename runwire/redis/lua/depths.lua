-- What waits in every queue. A queue in which nothing does is forgotten, until a commit puts something there.
--
-- KEYS  1 names of the queues
-- ARGV  1 prefix
-- Returns for each queue its name, how many topics are due and how many will be, and since when the first is due ('').

local prefix, found = ARGV[1], {}
for _, queue in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local due, all, oldest = 0, 0, nil
  for _, kind in ipairs({ 'due:', 'suspects:' }) do
    for _, tenant in ipairs(redis.call('ZRANGE', prefix .. 'tenants:' .. kind .. queue, 0, -1)) do
      local key = lane(prefix, kind, queue, tenant).key
      due = due + redis.call('ZCOUNT', key, '-inf', digits(now))
      all = all + redis.call('ZCARD', key)
      local first = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
      if first and first <= now and (not oldest or first < oldest) then
        oldest = first
      end
    end
  end
  if all == 0 then
    redis.call('SREM', KEYS[1], queue)
  else
    found[#found + 1] = { queue, due, all - due, oldest and digits(oldest) or '' }
  end
end
return found
