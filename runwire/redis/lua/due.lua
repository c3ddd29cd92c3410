-- Since when topics are due, those due longest first.
--
-- KEYS  due sets of the queues
-- ARGV  1 limit

local times = {}
for i, place in ipairs(due_topics(KEYS, tonumber(ARGV[1]))) do
  times[i] = digits(place.time)
end
return times
