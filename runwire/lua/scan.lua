-- Topics of an index, newest first by (create time, topic).
--
-- KEYS  1 index
-- ARGV  1 prefix, 2 since, 3 before: time ('' for no bound), 4 before: topic, 5 limit, then names of fields
-- Returns {topic, head, {name, value, ...}} for each.

local prefix, since, before, before_topic, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local names = { unpack(ARGV, 6) }

local found, offset, chunk = {}, 0, math.max(limit, 16)
while true do
  local places =
    redis.call('ZREVRANGEBYSCORE', KEYS[1], before == '' and '+inf' or before, since, 'WITHSCORES', 'LIMIT', offset, chunk)
  for i = 1, #places, 2 do
    local topic = places[i]
    if before == '' or tonumber(places[i + 1]) < tonumber(before) or topic < before_topic then
      local head = read_head(prefix .. 'head:' .. topic)
      if head then
        local fields = expired(head) and {} or named_fields(prefix .. 'fields:' .. topic, names)
        found[#found + 1] = { topic, visible(head), fields }
        if #found == limit then
          return found
        end
      end
    end
  end
  if #places < 2 * chunk then
    return found
  end
  offset = offset + chunk
end
