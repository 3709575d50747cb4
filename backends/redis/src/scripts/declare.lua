-- Declares a queue's stream and bindings on one exchange. Only adds.
-- KEYS: version, bindings, queues, stream. ARGV: a fresh token, queue, limit, then fields of bindings.
local version = redis.call('GET', KEYS[1])
local function renew()
  -- The first part tells this table from one that was made anew after a wipe.
  local born = version and string.match(version, '^[^.]*') or ARGV[1]
  redis.call('SET', KEYS[1], born .. '.' .. ARGV[1])
end
local changed = not version
if KEYS[4] then
  local created = redis.pcall('XGROUP', 'CREATE', KEYS[4], 'consumers', '0', 'MKSTREAM')
  if created.err and not string.find(created.err, 'BUSYGROUP', 1, true) then
    return created
  end
end
if redis.call('HGET', KEYS[3], ARGV[2]) ~= ARGV[3] then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
  changed = true
end
for i = 4, #ARGV do
  if redis.call('HSET', KEYS[2], ARGV[i], '') == 1 then
    changed = true
  end
end
if changed then
  renew()
end
return redis.status_reply('OK')
