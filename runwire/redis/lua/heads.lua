-- The heads of many topics.
--
-- KEYS  heads
-- Returns for each a head, or an empty list where there is no topic.

local found = {}
for i, key in ipairs(KEYS) do
  local head = read_head(key)
  found[i] = head and visible(head) or {}
end
return found
