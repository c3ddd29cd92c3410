-- A topic's head and fields.
--
-- KEYS  1 head, 2 fields
-- ARGV  1 prefix, 2 topic, 3 'all' (but those that are set aside), or 'named' and the names of the fields
-- Returns {} where there is no topic, else {head, {name, value, ...}}.

local head = read_head(KEYS[1])
if not head then
  return {}
end
if expired(head) then
  return { visible(head), {} }
end
if ARGV[3] == 'all' then
  return { visible(head), redis.call('HGETALL', KEYS[2]) }
end
local names, aside = {}, {}
for i = 4, #ARGV do
  local kind = is_aside(ARGV[i]) and aside or names
  kind[#kind + 1] = ARGV[i]
end
local found = named_fields(KEYS[2], names)
if #aside > 0 and head.aside == '1' then
  for _, word in ipairs(named_fields(aside_of(ARGV[1], ARGV[2], head), aside)) do
    found[#found + 1] = word
  end
end
return { visible(head), found }
