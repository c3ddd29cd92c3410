-- A topic's head and fields.
--
-- KEYS  1 head, 2 fields
-- ARGV  'all', or 'named' and the names of the fields
-- Returns {} where there is no topic, else {head, {name, value, ...}}.

local head = read_head(KEYS[1])
if not head then
  return {}
end
if expired(head) then
  return { visible(head), {} }
end
if ARGV[1] == 'all' then
  return { visible(head), redis.call('HGETALL', KEYS[2]) }
end
return { visible(head), named_fields(KEYS[2], { unpack(ARGV, 2) }) }
