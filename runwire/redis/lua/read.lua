-- One page of a log: whole entries that hold any event above `after`, within both bounds but at least one.
--
-- KEYS  1 head, 2 log
-- ARGV  1 after, 2 max_events, 3 max_bytes, 4 bytes of an entry before its events
-- Returns {now} where there is no topic, else {now, head, entries}.

local after, max_events, max_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local header = tonumber(ARGV[4])

local head = read_head(KEYS[1])
if not head then
  return { digits(now) }
end
local entries = {}
if expired(head) then
  return { digits(now), visible(head), entries }
end

local events, bytes, count = 0, 0, 4
while true do
  local found = redis.call('XRANGE', KEYS[2], digits(after + 1) .. '-0', '+', 'COUNT', count)
  for _, item in ipairs(found) do
    local entry = item[2][2]
    local first, last = struct.unpack('>I8I8', entry)
    events = events + last - first + 1
    bytes = bytes + #entry - header
    if #entries > 0 and (events > max_events or bytes > max_bytes) then
      return { digits(now), visible(head), entries }
    end
    entries[#entries + 1] = entry
    after = last
  end
  if #found < count or events >= max_events or bytes >= max_bytes then
    return { digits(now), visible(head), entries }
  end
  -- As many as will fit if the rest is like those so far.
  local fits = math.min((max_events - events) * #entries / events, (max_bytes - bytes) * #entries / bytes)
  count = math.max(1, math.min(math.ceil(fits), 2048))
end
