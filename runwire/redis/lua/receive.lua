-- Takes messages for a consumer: those whose lease has ended first, then new ones in order.
--
-- KEYS  1 stream
-- ARGV  1 group, 2 consumer, 3 limit, 4 default lease, 5 time without messages after which a consumer is forgotten (both
--       in milliseconds), 6 messages that are taken before their size is looked at, 7 bytes after which no more are taken
-- Returns milliseconds until the oldest lease ends ('' for none), then {id, body, deliveries} for each.
--
-- A consumer's name ends in `:` and its lease in milliseconds; one without has the default. Acknowledged messages are
-- deleted, so a group that is re-created begins at 0 and finds just what is not acknowledged.

local stream, group, consumer, limit = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local default_lease, forget_after = tonumber(ARGV[4]), tonumber(ARGV[5])
local chunk, room = tonumber(ARGV[6]), tonumber(ARGV[7])

local PENDING = 100
local taken = {}

local function take(id, body, deliveries)
  taken[#taken + 1] = { id, body, deliveries }
  room = room - #body
end

local function lease_of(name)
  return tonumber(string.match(name, ':(%d+)$')) or default_lease
end

local function body_of(values)
  for i = 1, #values, 2 do
    if values[i] == 'body' then
      return values[i + 1]
    end
  end
  return ''
end

-- The shortest lease of a consumer that has messages, or nil. Forgets consumers that are gone and have none.
local function shortest_lease(consumers)
  local shortest
  for _, known in ipairs(consumers) do
    local name, pending, idle = known[2], known[4], known[6]
    if pending > 0 then
      shortest = math.min(lease_of(name), shortest or math.huge)
    elseif idle > forget_after and name ~= consumer then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
    end
  end
  return shortest
end

local function take_back(id, deliveries)
  local item = redis.call('XCLAIM', stream, group, consumer, 0, id)[1]
  if item then
    take(id, body_of(item[2]), deliveries + 1)
  else
    redis.call('XACK', stream, group, id) -- somebody deleted the entry without acknowledging it
  end
end

-- Redis itself skips what was handed out less than the shortest lease ago, which is nearly all.
local function take_ended(shortest)
  local from = '-'
  while #taken < limit and room > 0 do
    local pending = redis.call('XPENDING', stream, group, 'IDLE', digits(shortest), from, '+', PENDING)
    for _, place in ipairs(pending) do
      local id, owner, idle, deliveries = unpack(place)
      if idle >= lease_of(owner) and #taken < limit and room > 0 then
        take_back(id, deliveries)
      end
      from = '(' .. id
    end
    if #pending < PENDING then
      return
    end
  end
end

local function oldest_end()
  local oldest = redis.call('XPENDING', stream, group, '-', '+', 1)[1]
  return oldest and digits(math.max(lease_of(oldest[2]) - oldest[3], 0)) or ''
end

if redis.call('EXISTS', stream) == 0 then
  return { '' }
end
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
if consumers.err then
  if not string.find(consumers.err, 'NOGROUP', 1, true) then
    return consumers
  end
  redis.call('XGROUP', 'CREATE', stream, group, '0')
  consumers = {}
end
local shortest = shortest_lease(consumers)
if shortest then
  take_ended(shortest)
end
while #taken < limit and room > 0 do
  local count = math.min(chunk, limit - #taken)
  local found = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
  local items = found and found[1][2] or {}
  for _, item in ipairs(items) do
    take(item[1], body_of(item[2]), 1)
  end
  if #items < count then
    break
  end
end
table.insert(taken, 1, #taken == 0 and oldest_end() or '')
return taken
