-- Prelude of every script: the clock, and the head of a topic.
--
-- Times are microseconds since the Unix epoch, by the clock of this server; a double holds them exactly. A script works
-- on one shard: every key below begins with the same prefix, and so lies in the same slot. Keys named after what a
-- topic's head says (its queue, its indexes) cannot be listed in KEYS and are built from the prefix.
--
-- SUSPECT_LOSSES and MAX_GRACE, in microseconds, are set before this by runwire/redis/scripts.py.

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- Decimal digits of a whole number: tostring would round above 1e14.
local function digits(number)
  return string.format('%.0f', number)
end

-- The head kept under `key`, each value a string as it is kept, or nil where there is none.
local function read_head(key)
  local values = redis.call(
    'HMGET', key, 'epoch', 'attempt', 'earliest', 'last', 'check', 'final', 'create_time', 'expire_time', 'queue',
    'leased', 'woken', 'losses', 'token', 'holder', 'alone', 'alone_losses', 'lease', 'suspect', 'overdue', 'aside'
  )
  if not values[1] then
    return nil
  end
  return {
    epoch = values[1], attempt = values[2], earliest = values[3], last = values[4], check = values[5],
    final = values[6], create_time = values[7], expire_time = values[8], queue = values[9], leased = values[10],
    woken = values[11], losses = values[12],
    -- What came later: a head written by the version before has none of it.
    token = values[13] or '', holder = values[14] or '', alone = values[15] or '0', alone_losses = values[16] or '0',
    lease = values[17] or '0', suspect = values[18] or '0', overdue = values[19] or '0',
    aside = values[20] or '0',
  }
end

-- Whose a topic is: see runwire/turns.py.
local function tenant_of(topic)
  return string.match(topic, '^([^/]*)/') or ''
end

-- Where the topics of one tenant have their places by due time, in a queue and of a kind ('due:' or 'suspects:'). Beside
-- it the set of the tenants that have such a place.
local function lane(prefix, kind, queue, tenant)
  return {
    key = prefix .. 'lane:' .. kind .. queue .. '/' .. tenant, tenants = prefix .. 'tenants:' .. kind .. queue, tenant = tenant,
    queue = queue,
  }
end

-- That of a topic.
local function lane_of(prefix, head, topic)
  return lane(prefix, head.suspect == '1' and 'suspects:' or 'due:', head.queue, tenant_of(topic))
end

local function place(at, topic, time)
  if redis.call('ZADD', at.key, digits(time), topic) == 1 then
    redis.call('ZADD', at.tenants, 0, at.tenant)
  end
end

local function unplace(at, topic)
  if redis.call('ZREM', at.key, topic) == 1 and redis.call('EXISTS', at.key) == 0 then
    redis.call('ZREM', at.tenants, at.tenant)
  end
end

-- All of a topic's, so that the script ends here if the slot moves and one of them is elsewhere.
local function touch_lanes(prefix, queue, tenant)
  for _, kind in ipairs({ 'due:', 'suspects:' }) do
    local at = lane(prefix, kind, queue, tenant)
    redis.call('EXISTS', at.key, at.tenants)
  end
end

-- See runwire.pubsub.grace_seconds.
local function grace_of(lease, loss)
  return math.min(math.floor(lease / 3 * 2 ^ math.min(loss - 1, 10)), MAX_GRACE)
end

local function lose(head)
  head.losses = digits(head.losses + 1)
  if head.alone == '1' then
    head.alone_losses = digits(head.alone_losses + 1)
  end
end

local function hold(head, lease)
  head.lease = digits(lease)
  head.suspect = head.losses + 1 >= SUSPECT_LOSSES and '1' or '0'
end

-- Whether the retention of a closed log has passed. Its log and fields are swept away a moment later.
local function expired(head)
  return head.final ~= '0' and now >= tonumber(head.expire_time)
end

-- The head as readers see it.
local function visible(head)
  return {
    head.epoch, head.attempt, head.earliest, head.last, head.check, head.final, head.create_time, head.expire_time,
    expired(head) and 1 or 0,
  }
end

-- How long after its retention a log ends by itself, where nobody sweeps.
local SWEPT = 60 * 1000000

-- The time, in milliseconds, at which Redis removes what must not be seen from `time` on.
local function end_of(time)
  return digits(math.ceil(time / 1000) + 1)
end

-- The place of a closed topic in `ends`. It says all that is needed when the head is gone: `names` are its indexes.
local function end_place(topic, head, names)
  return topic .. '\0' .. head.epoch .. '\0' .. names
end

-- Whether this field is one that is set aside: claims do not bring it.
local function is_aside(name)
  return string.sub(name, 1, 6) == 'aside/'
end

-- The hash of a topic's fields that are set aside. It is there where head.aside is '1': so nothing else touches a key
-- that is not there (see commit.lua on slots that move). By the epoch, so that it is no other log's of this name.
local function aside_of(prefix, topic, head)
  return prefix .. 'aside:' .. topic .. ':' .. head.epoch
end

-- {name, value, ...} of those fields in the hash `key` that exist.
local function named_fields(key, names)
  local found = {}
  if #names == 0 then
    return found
  end
  for i, value in ipairs(redis.call('HMGET', key, unpack(names))) do
    if value then
      found[#found + 1] = names[i]
      found[#found + 1] = value
    end
  end
  return found
end

-- Up to `limit` topics of these lanes that are due, those due longest first.
local function due_topics(lanes, limit)
  local ready = {}
  for _, at in ipairs(lanes) do
    local places = redis.call('ZRANGEBYSCORE', at.key, '-inf', digits(now), 'WITHSCORES', 'LIMIT', 0, limit)
    for i = 1, #places, 2 do
      ready[#ready + 1] = { at = at, topic = places[i], time = tonumber(places[i + 1]) }
    end
  end
  table.sort(ready, function(a, b)
    return a.time < b.time or (a.time == b.time and a.topic < b.topic)
  end)
  for i = #ready, limit + 1, -1 do
    ready[i] = nil
  end
  return ready
end

local PAGE = 100

-- The tenants that have something due in these queues, from `first` on and round again: `limit` of them and one more, as
-- the first may have had its turn. Then the lanes of each in which that is, and the time at which something is due next
-- where nothing is now.
local function waiting(prefix, kind, queues, first, limit)
  local found, lanes, next_due = {}, {}, nil
  for _, range in ipairs({ { '[' .. first, '+' }, { '-', '(' .. first } }) do
    local names = {}
    for _, queue in ipairs(queues) do
      local from, room, page = range[1], limit + 1, nil
      repeat
        page = redis.call('ZRANGEBYLEX', prefix .. 'tenants:' .. kind .. queue, from, range[2], 'LIMIT', 0, PAGE)
        for _, name in ipairs(page) do
          from = '(' .. name
          local at = lane(prefix, kind, queue, name)
          local time = tonumber(redis.call('ZRANGE', at.key, 0, 0, 'WITHSCORES')[2] or nil)
          if time and time > now then
            next_due = math.min(time, next_due or time)
          elseif time and room > 0 then
            room = room - 1
            names[#names + 1] = not lanes[name] and name or nil
            lanes[name] = lanes[name] or {}
            table.insert(lanes[name], at)
          end
        end
      until #page < PAGE or room <= 0
    end
    table.sort(names)
    for _, name in ipairs(names) do
      found[#found + 1] = #found <= limit and name or nil
    end
    if #found > limit then
      break
    end
  end
  return found, lanes, next_due
end
