-- The usual commits of many topics at once: events that their owners append, and nothing else.
--
-- KEYS  head and log of each topic in turn
-- ARGV  1 prefix; then, for each of them: topic, attempt, token, entry
-- Returns {now, what, what, ...}: {epoch, earliest, create_time} of a topic whose events were appended; '' where anything
-- is not as it usually is. Nothing was written there, and lua/commit.lua has the rules.
--
-- Each topic's write is whole by itself, and knows its own repetition. So an error between two of them does no harm: the
-- caller does them again, one by one.

local said = { digits(now) }
for i = 1, #KEYS / 2 do
  local topic, attempt, token, entry = ARGV[4 * i - 2], ARGV[4 * i - 1], ARGV[4 * i], ARGV[4 * i + 1]
  local head = redis.call(
    'HMGET', KEYS[2 * i - 1], 'epoch', 'attempt', 'token', 'last', 'check', 'final', 'earliest', 'create_time'
  )
  said[i + 1] = ''
  if head[1] and attempt == head[2] and (token == '' or token == head[3]) and head[6] == '0' then
    local first, last, previous, check, final = struct.unpack('>I8I8c8c8I4', entry)
    local continues = head[5] == '' and '\0\0\0\0\0\0\0\0' or head[5]
    if first == tonumber(head[4]) + 1 and previous == continues and final == 0 then
      last = digits(last)
      redis.call('XADD', KEYS[2 * i], last .. '-0', 'entry', entry)
      redis.call('HSET', KEYS[2 * i - 1], 'last', last, 'check', check)
      redis.call('PUBLISH', ARGV[1] .. 'live:' .. topic, head[1] .. entry)
      said[i + 1] = { head[1], head[7], head[8] }
    end
  end
end
return said
