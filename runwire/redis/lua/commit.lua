-- The one atomic write to a topic; the rules are those of runwire.pubsub.Commit and runwire/topic.py.
--
-- KEYS  1 head, 2 log, 3 fields
-- ARGV  1 prefix, 2 topic, 3 attempt ('' for others than the owner), 4 token ('' for them too),
--       5 schedule, or 'back' for a claim that nobody got,
--       6 entry ('' without events)
--       and, unless all of these are at their defaults:
--       7 due_in, 8 progress ('1'), 9 retention, 10 tombstone, 11 new epoch ('' unless create), 12 queue (also of one
--       that moves),
--       13..18 how many indexes, puts, puts_once, deletes, messages and leaves follow: name; name, value; name, value;
--       name; queue, body; name
-- Returns {'ok', now, head}, or a refusal: {'exists'}, {'not_found'}, {'expired', final}, {'fenced', attempt},
-- {'unclaimed', attempt}, {'closed', final}, {'hole', last}, {'field', name, value}.

local prefix, topic, attempt, token, schedule, entry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local epoch, progress = '', false
local none = {}
local indexes, puts, puts_once, deletes, messages, leaves = none, none, none, none, none, none
if #ARGV > 6 then
  epoch, progress = ARGV[11], ARGV[8] == '1'
  local rest = 19
  -- The places in ARGV of the next `count` things, each `width` arguments wide.
  local function places(count, width)
    local found = {}
    for i = 1, tonumber(count) do
      found[i] = rest
      rest = rest + width
    end
    return found
  end
  indexes, puts, puts_once = places(ARGV[13], 1), places(ARGV[14], 2), places(ARGV[15], 2)
  deletes, messages, leaves = places(ARGV[16], 1), places(ARGV[17], 2), places(ARGV[18], 1)
end

-- Checks

local head = read_head(KEYS[1])
if epoch ~= '' and head then
  return { 'exists' }
elseif epoch == '' and not head then
  return { 'not_found' }
end
head = head or {
  epoch = epoch, attempt = '0', earliest = '1', last = '0', check = '', final = '0', create_time = digits(now),
  expire_time = '0', queue = ARGV[12], leased = '0', woken = '0', losses = '0', token = '', holder = '', alone = '0',
  alone_losses = '0', lease = '0', suspect = '0', overdue = '0', aside = '0',
}
if expired(head) then
  return { 'expired', head.final }
end
if attempt ~= '' and attempt ~= head.attempt then
  local unclaimed = token == '' and tonumber(attempt) > tonumber(head.attempt)
  return { unclaimed and 'unclaimed' or 'fenced', head.attempt }
end
if token ~= '' and token ~= head.token then
  return { 'fenced', head.attempt }
end
local first, last, previous, check, final = nil, nil, nil, nil, 0
if entry ~= '' then
  first, last, previous, check, final = struct.unpack('>I8I8c8c8I4', entry)
  last = digits(last)
  if last == head.last and check == head.check then
    return { 'ok', digits(now), visible(head) }
  end
end
if head.final ~= '0' then
  return { 'closed', head.final }
end
if first then
  local continues = head.check == '' and '\0\0\0\0\0\0\0\0' or head.check
  if first ~= tonumber(head.last) + 1 or previous ~= continues then
    return { 'hole', head.last }
  end
end
local aside = aside_of(prefix, topic, head)
-- The hash that this field is in.
local function hash_of(name)
  return is_aside(name) and aside or KEYS[3]
end
local sets_aside, uses_aside = false, head.aside == '1' and final ~= 0
for _, some in ipairs({ puts, puts_once, deletes }) do
  for _, i in ipairs(some) do
    if is_aside(ARGV[i]) then
      uses_aside = true
      sets_aside = sets_aside or some ~= deletes
    end
  end
end
for _, i in ipairs(puts_once) do
  local value = redis.call('HGET', hash_of(ARGV[i]), ARGV[i])
  if value then
    return { 'field', ARGV[i], value }
  end
end

-- What the topic becomes

local lane_before = lane_of(prefix, head, topic)
local changes = {}
local function set(name, value)
  head[name] = value
  changes[#changes + 1] = name
  changes[#changes + 1] = value
end

local due -- nil: as it is; false: never; or a time
if epoch ~= '' then
  for name, value in pairs(head) do
    set(name, value)
  end
end
if #indexes + #leaves > 0 then
  local known = epoch == '' and redis.call('HGET', KEYS[1], 'indexes') or ''
  local names, left = {}, {}
  for _, i in ipairs(indexes) do
    names[#names + 1] = ARGV[i]
  end
  for _, name in ipairs(names) do
    left[name] = true
  end
  for _, i in ipairs(leaves) do
    left[ARGV[i]] = true
  end
  for name in string.gmatch(known, '[^%z]+') do
    if not left[name] then
      names[#names + 1] = name
    end
  end
  set('indexes', table.concat(names, '\0'))
end
if first then
  set('last', last)
  set('check', check)
end
if sets_aside and head.aside ~= '1' then
  set('aside', '1')
end
local ends = final ~= 0 or schedule == 'due' or schedule == 'never'
local moves = epoch == '' and (ARGV[12] or '') ~= '' and (ends or head.leased == '0')
if moves then
  set('queue', ARGV[12])
end
if final ~= 0 then
  set('final', digits(final))
  set('expire_time', digits(now + tonumber(ARGV[9])))
  due = false
elseif schedule == 'due' then
  due = head.woken == '1' and now or now + tonumber(ARGV[7] or 0)
elseif schedule == 'never' then
  due = head.woken == '1' and now
elseif schedule == 'wake' then
  -- The mark is set without a lease too: a NEVER that the owner repeats after a time-out must not undo it.
  set('woken', '1')
  local planned = tonumber(redis.call('ZSCORE', lane_before.key, topic) or nil)
  if head.leased == '0' and not (planned and planned <= now) then
    due = now
  elseif moves then
    due = planned
  end
elseif progress and head.suspect == '1' then
  due = tonumber(redis.call('ZSCORE', lane_before.key, topic) or nil)
end
if progress or ends then
  set('losses', '0')
  if head.alone_losses ~= '0' or head.suspect == '1' then
    set('alone_losses', '0')
    set('suspect', '0')
  end
end
if schedule == 'lost' and final == 0 and head.leased == '1' then
  lose(head)
  set('losses', head.losses)
  set('alone_losses', head.alone_losses)
  set('suspect', tonumber(head.losses) >= SUSPECT_LOSSES and '1' or '0')
  set('leased', '0')
  set('overdue', '0')
  due = head.woken == '1' and now or now + grace_of(tonumber(head.lease), tonumber(head.losses))
elseif schedule == 'back' and head.leased == '1' then
  set('suspect', tonumber(head.losses) >= SUSPECT_LOSSES and '1' or '0')
  set('leased', '0')
  due = now
elseif ends then
  set('leased', '0')
  if head.overdue == '1' then
    set('overdue', '0')
  end
end
if #changes == 0 then
  set('last', head.last)
end
local lane_after = lane_of(prefix, head, topic)

-- While a cluster moves the slot, a key that is elsewhere already ends the script where it is touched first: here, and
-- not between two writes. (A key that never was looks the same; the caller tries again until the slot has moved.)
local touched = {}
if due ~= nil then
  touched = { lane_after.key, lane_after.tenants, lane_before.key, lane_before.tenants, prefix .. 'queues' }
end
for _, i in ipairs(indexes) do
  touched[#touched + 1] = prefix .. 'index:' .. ARGV[i]
end
for _, i in ipairs(leaves) do
  touched[#touched + 1] = prefix .. 'index:' .. ARGV[i]
end
for _, i in ipairs(messages) do
  touched[#touched + 1] = prefix .. 'messages:' .. ARGV[i]
end
if final ~= 0 then
  touched[#touched + 1] = prefix .. 'ends'
end
if uses_aside then
  touched[#touched + 1] = aside
end
if #touched > 0 then
  redis.call('EXISTS', unpack(touched))
end

-- Writes. A server without memory refuses the first, and with it all: later ones of a script it does not look at.

if epoch ~= '' then
  redis.call('HSET', KEYS[1], 'epoch', epoch)
  redis.call('UNLINK', KEYS[2], KEYS[3]) -- what a lost head may have left
end
if first then
  redis.call('XADD', KEYS[2], last .. '-0', 'entry', entry)
end
redis.call('HSET', KEYS[1], unpack(changes))
for _, i in ipairs(deletes) do
  redis.call('HDEL', hash_of(ARGV[i]), ARGV[i])
end
for _, i in ipairs(puts) do
  redis.call('HSET', hash_of(ARGV[i]), ARGV[i], ARGV[i + 1])
end
for _, i in ipairs(puts_once) do
  redis.call('HSET', hash_of(ARGV[i]), ARGV[i], ARGV[i + 1])
end
for _, i in ipairs(leaves) do
  redis.call('ZREM', prefix .. 'index:' .. ARGV[i], topic)
end
for _, i in ipairs(indexes) do
  redis.call('ZADD', prefix .. 'index:' .. ARGV[i], head.create_time, topic)
end
if due ~= nil and (not due or lane_after.key ~= lane_before.key) then
  unplace(lane_before, topic)
end
if due then
  place(lane_after, topic, due)
  redis.call('SADD', prefix .. 'queues', head.queue)
elseif due == false
  and redis.call('EXISTS', prefix .. 'tenants:due:' .. head.queue, prefix .. 'tenants:suspects:' .. head.queue) == 0
then
  redis.call('SREM', prefix .. 'queues', head.queue)
end
for _, i in ipairs(messages) do
  redis.call('XADD', prefix .. 'messages:' .. ARGV[i], '*', 'body', ARGV[i + 1])
end
if final ~= 0 then
  -- `sweep` removes log and fields aside of other work. This is for a store that nobody sweeps.
  local expire = tonumber(head.expire_time)
  redis.call('PEXPIREAT', KEYS[2], end_of(expire + SWEPT))
  redis.call('PEXPIREAT', KEYS[3], end_of(expire + SWEPT))
  if head.aside == '1' then
    redis.call('PEXPIREAT', aside, end_of(expire + SWEPT))
  end
  redis.call('PEXPIREAT', KEYS[1], end_of(expire + tonumber(ARGV[10])))
  local names = redis.call('HGET', KEYS[1], 'indexes') or ''
  redis.call('ZADD', prefix .. 'ends', head.expire_time, end_place(topic, head, names))
end

-- Who is told

if first then
  redis.call('PUBLISH', prefix .. 'live:' .. topic, head.epoch .. entry)
end
if due and due <= now then
  redis.call('PUBLISH', prefix .. 'bell:' .. (head.suspect == '1' and 'suspects:' or 'due:') .. head.queue, '')
end
for _, i in ipairs(messages) do
  redis.call('PUBLISH', prefix .. 'bell:messages:' .. ARGV[i], '')
end
return { 'ok', digits(now), visible(head) }
