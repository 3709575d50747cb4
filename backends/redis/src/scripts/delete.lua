-- Deletes a queue on one exchange: its bindings first.
-- KEYS: version, bindings, queues, then all keys of the queue. ARGV: a fresh token, queue.
local version = redis.call('GET', KEYS[1])
local function renew()
  -- The first part tells this table from one that was made anew after a wipe.
  local born = version and string.match(version, '^[^.]*') or ARGV[1]
  -- A request may be repeated, a version may not.
  local time = redis.call('TIME')
  redis.call('SET', KEYS[1], born .. '.' .. ARGV[1] .. '.' .. time[1] .. '.' .. time[2])
end
local start = ARGV[2] .. ' '
local gone = redis.call('HDEL', KEYS[3], ARGV[2])
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  if string.sub(field, 1, #start) == start then
    gone = gone + redis.call('HDEL', KEYS[2], field)
  end
end
if version and gone > 0 then
  renew()
end
if KEYS[4] then
  redis.call('UNLINK', unpack(KEYS, 4))
end
return redis.status_reply('OK')
