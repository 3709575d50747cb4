-- Removes bindings, these or all of a queue but these.
-- KEYS: version, bindings. ARGV: a fresh token, '' or the queue whose other bindings are meant, then fields.
local version = redis.call('GET', KEYS[1])
local function renew()
  -- The first part tells this table from one that was made anew after a wipe.
  local born = version and string.match(version, '^[^.]*') or ARGV[1]
  -- A request may be repeated, a version may not.
  local time = redis.call('TIME')
  redis.call('SET', KEYS[1], born .. '.' .. ARGV[1] .. '.' .. time[1] .. '.' .. time[2])
end
local gone = 0
if ARGV[2] == '' then
  for i = 3, #ARGV do
    gone = gone + redis.call('HDEL', KEYS[2], ARGV[i])
  end
else
  local keep = {}
  for i = 3, #ARGV do
    keep[ARGV[i]] = true
  end
  local start = ARGV[2] .. ' '
  for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.sub(field, 1, #start) == start and not keep[field] then
      gone = gone + redis.call('HDEL', KEYS[2], field)
    end
  end
end
if gone > 0 and version then
  renew()
end
return gone
