-- Deletes a queue on one exchange: its bindings first.
-- KEYS: version, bindings, queues, then all keys of the queue. ARGV: a fresh token, queue.
local version = redis.call('GET', KEYS[1])
local function renew()
  -- The first part tells this table from one that was made anew after a wipe.
  local born = version and string.match(version, '^[^.]*') or ARGV[1]
  redis.call('SET', KEYS[1], born .. '.' .. ARGV[1])
end
local start = ARGV[2] .. ' '
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  if string.sub(field, 1, #start) == start then
    redis.call('HDEL', KEYS[2], field)
  end
end
redis.call('HDEL', KEYS[3], ARGV[2])
if version then
  renew()
end
if KEYS[4] then
  redis.call('UNLINK', unpack(KEYS, 4))
end
return redis.status_reply('OK')
