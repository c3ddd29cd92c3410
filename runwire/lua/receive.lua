-- Takes messages for a consumer: those whose lease has ended first, then new ones in order.
--
-- KEYS  1 stream
-- ARGV  1 group, 2 consumer, 3 limit, 4 default lease in milliseconds, 5 idle milliseconds after which a consumer
--       without messages is forgotten ('' : do not look)
-- Returns milliseconds until the next lease ends ('' for none that is known), then {id, body, deliveries} for each.
--
-- A consumer's name ends in `:` and its lease in milliseconds; one without has the default. Acknowledged messages are
-- deleted, so a group that is made anew begins at 0 and finds just what is not acknowledged.

local stream, group, consumer, limit, default_lease = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

if redis.call('EXISTS', stream) == 0 then
  return { '' }
end

local CHUNK = 100
local taken = {}
local next_end

local function body_of(values)
  for i = 1, #values, 2 do
    if values[i] == 'body' then
      return values[i + 1]
    end
  end
  return ''
end

local function take_back(id, deliveries)
  local item = redis.call('XCLAIM', stream, group, consumer, 0, id)[1]
  if item then
    taken[#taken + 1] = { id, body_of(item[2]), deliveries + 1 }
  else
    redis.call('XACK', stream, group, id) -- somebody deleted the entry without acknowledging it
  end
end

-- Pages through everything in consumers' hands, of which there is never much.
local function take_ended()
  local from = '-'
  while #taken < limit do
    local pending = redis.pcall('XPENDING', stream, group, from, '+', CHUNK)
    if pending.err then
      return pending
    end
    for _, place in ipairs(pending) do
      local id, owner, idle, deliveries = unpack(place)
      local lease = tonumber(string.match(owner, ':(%d+)$')) or default_lease
      if idle < lease then
        next_end = math.min(lease - idle, next_end or lease)
      elseif #taken < limit then
        take_back(id, deliveries)
      end
      from = '(' .. id
    end
    if #pending < CHUNK then
      return nil
    end
  end
end

local failed = take_ended()
if failed then
  if not string.find(failed.err, 'NOGROUP', 1, true) then
    return failed
  end
  redis.call('XGROUP', 'CREATE', stream, group, '0')
end
if #taken < limit then
  local found =
    redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', limit - #taken, 'STREAMS', stream, '>')
  for _, item in ipairs(found and found[1][2] or {}) do
    taken[#taken + 1] = { item[1], body_of(item[2]), 1 }
  end
end
if ARGV[5] ~= '' then
  for _, known in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local name, pending, idle = known[2], known[4], known[6]
    if pending == 0 and idle > tonumber(ARGV[5]) and name ~= consumer then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
    end
  end
end
table.insert(taken, 1, next_end and digits(next_end) or '')
return taken
