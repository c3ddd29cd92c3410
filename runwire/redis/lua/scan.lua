-- Places of topics that are in all of several indexes, newest first by (create time, topic).
--
-- KEYS  indexes
-- ARGV  1 since, 2 before: time ('' for no bound), 3 before: topic, 4 limit, 5 most places to look at
-- Returns {time, topic} of the place below which there may be more ({} where that was all), then time and topic of each.

local since, before, before_topic = ARGV[1], ARGV[2], ARGV[3]
local limit, looks = tonumber(ARGV[4]), tonumber(ARGV[5])

-- The shortest index sets the pace; in the others a topic is only asked for.
local shortest, size = 1, math.huge
for i, key in ipairs(KEYS) do
  local count = redis.call('ZCARD', key)
  if count < size then
    shortest, size = i, count
  end
end

local function in_all(topic)
  for i, key in ipairs(KEYS) do
    if i ~= shortest and not redis.call('ZSCORE', key, topic) then
      return false
    end
  end
  return true
end

local found, offset, chunk = { {} }, 0, math.min(math.max(limit, 16), looks)
while true do
  local places = redis.call(
    'ZREVRANGEBYSCORE', KEYS[shortest], before == '' and '+inf' or before, since, 'WITHSCORES', 'LIMIT', offset, chunk
  )
  for i = 1, #places, 2 do
    local topic, time = places[i], digits(tonumber(places[i + 1]))
    if before == '' or tonumber(time) < tonumber(before) or topic < before_topic then
      looks = looks - 1
      if in_all(topic) then
        found[#found + 1] = time
        found[#found + 1] = topic
      end
      if #found > 2 * limit or looks <= 0 then
        found[1] = { time, topic }
        return found
      end
    end
  end
  if #places < 2 * chunk then
    return found
  end
  offset = offset + chunk
end
