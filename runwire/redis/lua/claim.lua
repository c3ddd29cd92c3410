-- Takes topics that are due, those due longest first. A lease that is found to have run out waits for its grace first.
--
-- KEYS  one lane of the queues: due sets, or sets of suspects
-- ARGV  1 prefix, 2 limit, 3 lease, 4 holder, 5 token, 6 whether it is the lane of suspects ('1'), 7 bytes of
--       fields after which no more is taken, then the queues
-- Returns {now, microseconds until the next is due ('' for nothing planned), {topic, head, token, losses, alone_losses,
-- {name, value, ...}, time at which it was due}, ...}.

local prefix, limit, lease, holder, token, alone = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local bytes = tonumber(ARGV[7])

local MAX_SPARED = 1000 -- by one call: the next one continues

local claims, taken, spared = { digits(now), '' }, {}, 0

-- A key that is elsewhere ends the script here, and not between two writes (see commit.lua).
for i = 8, #ARGV do
  touch_lanes(prefix, ARGV[i])
end

local function spare(place, head)
  local grace = head.leased == '1' and head.overdue == '0' and grace_of(tonumber(head.lease), head.losses + 1) or 0
  if grace <= 0 then
    return false
  end
  redis.call('HSET', prefix .. 'head:' .. place.topic, 'overdue', '1')
  redis.call('ZADD', place.key, digits(now + grace), place.topic)
  spared = spared + 1
  return true
end

local function take(place, head)
  head.attempt = digits(head.attempt + 1)
  if head.leased == '1' and head.holder ~= holder then
    lose(head)
  end
  hold(head, lease)
  redis.call(
    'HSET', prefix .. 'head:' .. place.topic, 'attempt', head.attempt, 'token', token, 'holder', holder, 'alone', alone,
    'losses', head.losses, 'alone_losses', head.alone_losses, 'lease', head.lease, 'suspect', head.suspect,
    'overdue', '0', 'leased', '1', 'woken', '0'
  )
  local key = lane_of(prefix, head)
  redis.call('ZADD', key, digits(now + lease), place.topic)
  if key ~= place.key then
    redis.call('ZREM', place.key, place.topic)
  end
  taken[place.topic] = true
  local fields = redis.call('HGETALL', prefix .. 'fields:' .. place.topic)
  for i = 2, #fields, 2 do
    bytes = bytes - #fields[i]
  end
  claims[#claims + 1] = {
    place.topic, visible(head), token, head.losses, head.alone_losses, fields, digits(place.time),
  }
end

-- Whether there was anything that another one may now be due in the place of.
local function look()
  local before = spared
  for _, place in ipairs(due_topics(KEYS, limit + 2 - #claims)) do
    if bytes <= 0 then
      return false
    end
    local head = read_head(prefix .. 'head:' .. place.topic)
    if not head or head.final ~= '0' or lane_of(prefix, head) ~= place.key then
      redis.call('ZREM', place.key, place.topic)
    elseif not taken[place.topic] and not spare(place, head) then
      take(place, head)
    end
  end
  return spared > before and spared < MAX_SPARED
end

while #claims - 2 < limit and look() do end

if #claims == 2 then
  local next_due
  for _, key in ipairs(KEYS) do
    local time = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2] or nil)
    next_due = time and math.min(time, next_due or time) or next_due
  end
  claims[2] = next_due and digits(math.max(next_due - now, 0)) or ''
end
return claims
