-- Heads of topics, with fields.
--
-- KEYS  heads, then the hash of fields of each
-- ARGV  names of fields
-- Returns for each topic {head, {name, value, ...}}, or {} where there is none or it is expired.

local found, count = {}, #KEYS / 2
for i = 1, count do
  local head = read_head(KEYS[i])
  if head and not expired(head) then
    found[i] = { visible(head), named_fields(KEYS[count + i], ARGV) }
  else
    found[i] = {}
  end
end
return found
