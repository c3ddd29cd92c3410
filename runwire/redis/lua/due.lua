-- Which tenants have something due, and since when: of each those due longest, at most its part of the limit and `most`.
--
-- KEYS  the sets of tenants of the queues
-- ARGV  1 prefix, 2 limit, 3 kind, 4 the tenant that is first, 5 most, then the queues
-- Returns for each tenant its name and the times, in turn from the first on.

local prefix, limit, kind, first, most = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local queues = { unpack(ARGV, 6) }

local found = {}
local names, lanes = waiting(prefix, kind, queues, first, limit)
for i, name in ipairs(names) do
  local times = {}
  for k, place in ipairs(due_topics(lanes[name], math.ceil(limit / #names) + most + 1)) do
    times[k] = digits(place.time)
  end
  found[i] = { name, times }
end
return found
