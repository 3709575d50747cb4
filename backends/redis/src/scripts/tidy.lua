-- Takes consumers off that are gone: they hold nothing, and have not read for a long time.
-- KEYS: stream, robbed. ARGV: ms.
local gone = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'consumers')) do
  local name, pending, idle = consumer[2], consumer[4], consumer[6]
  if name ~= '~' and pending == 0 and idle > tonumber(ARGV[1]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'consumers', name)
    redis.call('HDEL', KEYS[2], name)
    gone = gone + 1
  end
end
return gone
