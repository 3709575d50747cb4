-- Removes bindings, these or all of a queue but these.
-- KEYS: version, bindings. ARGV: a fresh token, '' or the queue whose other bindings are meant, then fields.
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
