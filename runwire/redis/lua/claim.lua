-- Takes topics that are due, of the tenants in turn (runwire/turns.py), of each those due longest first. A lease that is
-- found to have run out waits for its grace first.
--
-- KEYS  the sets of tenants of the queues, of one kind, and at the end the turn of those who claim from them
-- ARGV  1 prefix, 2 limit, 3 lease, 4 holder, 5 token, 6 kind, 7 bytes of fields after which no more is taken,
--       8 how many queues there are, 9 '' or whether it is planned what to take, then the queues, and tenants: each with
--       its weight, or where it is planned with how many of its topics to take, of them alone, no matter whose turn it is.
-- Returns {now, microseconds until the next is due ('' for nothing planned), {topic, head, token, losses, alone_losses,
-- {name, value, ...}, time at which it was due}, ...}.

local prefix, limit, lease, holder, token, kind = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local bytes, planned = tonumber(ARGV[7]), ARGV[9] ~= ''
local queues = { unpack(ARGV, 10, 9 + tonumber(ARGV[8])) }
local numbers = {} -- weights, or how many are to be taken
for i = 10 + #queues, #ARGV, 2 do
  numbers[ARGV[i]] = tonumber(ARGV[i + 1])
end

local MAX_SPARED = 1000 -- by one call: the next one continues
local TURN_SECONDS = 86400 -- for this long at least it is known who had the last turn
local ADOPTED = 1000

local claims, taken, spared, next_due = { digits(now), '' }, {}, 0, nil
local turn_key = KEYS[#KEYS]

-- A key that is elsewhere ends the script here, or in `look`, and not between two writes (see commit.lua).
redis.call('EXISTS', unpack(KEYS))

-- Until every tenant had a place of its own, all topics of a queue were in one: what the version before put there, and
-- still puts there beside us, moves. Of two times of a topic the later one is that of the lease.
for _, queue in ipairs(queues) do
  local old = prefix .. kind .. queue
  local places = redis.call('ZRANGE', old, 0, ADOPTED - 1, 'WITHSCORES')
  for i = 1, #places, 2 do
    local at = lane(prefix, kind, queue, tenant_of(places[i]))
    local known = redis.call('ZSCORE', at.key, places[i])
    place(at, places[i], math.max(tonumber(places[i + 1]), tonumber(known or 0)))
    redis.call('ZREM', old, places[i])
  end
end

local turn = { tenant = '', taken = 0 }
local kept = redis.call('GET', turn_key)
if kept then
  local count, name = string.match(kept, '^(%d+) (.*)$')
  turn = { tenant = name, taken = tonumber(count) }
end

local function weight(name)
  return numbers[name] or 1
end

-- The place in the sorted `names` of the one whose turn it is.
local function next_of(names)
  local goes_on = turn.taken < weight(turn.tenant)
  for i, name in ipairs(names) do
    if name > turn.tenant or (goes_on and name == turn.tenant) then
      return i
    end
  end
  return 1
end

local function took(name)
  local goes_on = name == turn.tenant and turn.taken < weight(name)
  turn = { tenant = name, taken = goes_on and turn.taken + 1 or 1 }
end

local function spare(there, head)
  local grace = head.leased == '1' and head.overdue == '0' and grace_of(tonumber(head.lease), head.losses + 1) or 0
  if grace <= 0 then
    return false
  end
  redis.call('HSET', prefix .. 'head:' .. there.topic, 'overdue', '1')
  place(there.at, there.topic, now + grace)
  spared = spared + 1
  return true
end

local function take(there, head)
  head.attempt = digits(head.attempt + 1)
  if head.leased == '1' and head.holder ~= holder then
    lose(head)
  end
  hold(head, lease)
  redis.call(
    'HSET', prefix .. 'head:' .. there.topic, 'attempt', head.attempt, 'token', token, 'holder', holder, 'alone',
    kind == 'suspects:' and '1' or '0', 'losses', head.losses, 'alone_losses', head.alone_losses, 'lease', head.lease,
    'suspect', head.suspect, 'overdue', '0', 'leased', '1', 'woken', '0'
  )
  local at = lane_of(prefix, head, there.topic)
  place(at, there.topic, now + lease)
  if at.key ~= there.at.key then
    unplace(there.at, there.topic)
  end
  taken[there.topic] = true
  local fields = redis.call('HGETALL', prefix .. 'fields:' .. there.topic)
  for i = 2, #fields, 2 do
    bytes = bytes - #fields[i]
  end
  claims[#claims + 1] = {
    there.topic, visible(head), token, head.losses, head.alone_losses, fields, digits(there.time),
  }
end

-- Whether another one may now be due in the place of this.
local function visit(there)
  local head = read_head(prefix .. 'head:' .. there.topic)
  if not head or head.final ~= '0' or lane_of(prefix, head, there.topic).key ~= there.at.key then
    unplace(there.at, there.topic)
    return true
  elseif taken[there.topic] then
    return false
  elseif spare(there, head) then
    return true
  end
  take(there, head)
  took(there.at.tenant)
  if planned then
    numbers[there.at.tenant] = numbers[there.at.tenant] - 1
  end
  return true
end

-- Those whose topics are to be looked at, and the lanes of each.
local function tenants_in_turn(left)
  local names, lanes = {}, {}
  if not planned then
    names, lanes, next_due = waiting(prefix, kind, queues, turn.tenant, left)
    return names, lanes
  end
  for name, count in pairs(numbers) do
    names[#names + 1] = count > 0 and name or nil
    lanes[name] = {}
    for i, queue in ipairs(queues) do
      lanes[name][i] = lane(prefix, kind, queue, name)
    end
  end
  return names, lanes
end

-- One round (see runwire.turns.Turns.round). Whether there may be more.
local function look()
  local left, more, lists = limit + 2 - #claims, false, {}
  local names, lanes = tenants_in_turn(left)
  table.sort(names)
  for i = #names, 1, -1 do
    local name = names[i]
    for _, at in ipairs(lanes[name]) do
      touch_lanes(prefix, at.queue, name)
    end
    -- One more than it will be if all have as many: a list that is used up may have to be looked at again.
    local most = planned and numbers[name] or math.max(math.ceil(left / #names), weight(name)) + 1
    lists[name] = due_topics(lanes[name], most)
    lists[name].most = most
    lists[name].at = 1
  end
  for i = #names, 1, -1 do
    if #lists[names[i]] == 0 then
      table.remove(names, i)
    end
  end
  while #names > 0 and #claims - 2 < limit and bytes > 0 do
    local i = next_of(names)
    local list = lists[names[i]]
    more = visit(list[list.at]) or more
    list.at = list.at + 1
    if list.at > #list then
      if #list == list.most and not planned then
        return more
      end
      table.remove(names, i)
    end
  end
  return more
end

while #claims - 2 < limit and bytes > 0 and spared < MAX_SPARED and look() do end

if #claims == 2 then
  claims[2] = next_due and digits(math.max(next_due - now, 0)) or ''
elseif not planned then
  redis.call('SET', turn_key, turn.taken .. ' ' .. turn.tenant, 'EX', TURN_SECONDS)
end
return claims
