-- Puts something up on a board, and takes down what has had its time.
--
-- KEYS  1 values by name, 2 names by the time at which they come down
-- ARGV  1 name, 2 value, 3 microseconds until it comes down; 0: at once

local name, value, time = ARGV[1], ARGV[2], tonumber(ARGV[3])
for _, over in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', digits(now), 'LIMIT', 0, 100)) do
  redis.call('HDEL', KEYS[1], over)
  redis.call('ZREM', KEYS[2], over)
end
if time <= 0 then
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
  return
end
redis.call('HSET', KEYS[1], name, digits(now) .. ' ' .. value)
redis.call('ZADD', KEYS[2], digits(now + time), name)
for _, key in ipairs(KEYS) do
  local left = math.ceil(time / 1000)
  if redis.call('PTTL', key) < left then
    redis.call('PEXPIRE', key, digits(left))
  end
end
